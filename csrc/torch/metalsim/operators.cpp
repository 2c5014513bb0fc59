// csrc/torch/metalsim/operators.cpp: the operators that make and move storages;
// everything else goes through fallback.cpp.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/host_views.h"
#include "torch/metalsim/kernels.h"

namespace orchard::metalsim {
namespace {

constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);

void check_options(optional<c10::Layout> layout, optional<c10::Device> place) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !layout.has_value() || *layout == c10::kStrided,
      "[UnsupportedError] metalsim: expected the strided layout, got ",
      *layout);
  TORCH_CHECK(!place.has_value() || place->index() <= 0,
              "metalsim: expected device metalsim:0, got ", *place);
}

at::Tensor empty(c10::IntArrayRef size,
                 optional<c10::ScalarType> dtype,
                 optional<c10::Layout> layout,
                 optional<c10::Device> place,
                 optional<bool>,
                 optional<c10::MemoryFormat> memory_format) {
  check_options(layout, place);
  return at::detail::empty_generic(size, allocator(), keys,
                                   c10::dtype_or_default(dtype), memory_format);
}

at::Tensor empty_strided(c10::IntArrayRef size,
                         c10::IntArrayRef stride,
                         optional<c10::ScalarType> dtype,
                         optional<c10::Layout> layout,
                         optional<c10::Device> place,
                         optional<bool>) {
  check_options(layout, place);
  return at::detail::empty_strided_generic(size, stride, allocator(), keys,
                                           c10::dtype_or_default(dtype));
}

// Gradients of functions without a slope.  PyTorch's own have no memory, which
// its CPU kernels know how to leave alone and a window onto memory does not.
at::Tensor zero_tensor(c10::IntArrayRef size,
                       optional<c10::ScalarType> dtype,
                       optional<c10::Layout> layout,
                       optional<c10::Device> place,
                       optional<bool> is_pinned) {
  return empty(size, dtype, layout, place, is_pinned, {}).zero_();
}

at::Tensor as_strided(const at::Tensor& self,
                      c10::IntArrayRef size,
                      c10::IntArrayRef stride,
                      optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

at::Tensor view(const at::Tensor& self, c10::IntArrayRef size) {
  return at::native::view(self, size);
}

at::Tensor reshape_alias(const at::Tensor& self,
                         c10::IntArrayRef size,
                         c10::IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

// Makes the storage long enough for the tensor's sizes and strides.
void reserve(const at::Tensor& tensor) {
  const size_t needed = at::detail::computeStorageNbytes(
      tensor.sizes(), tensor.strides(),
      static_cast<size_t>(tensor.element_size()),
      static_cast<size_t>(tensor.storage_offset()));
  c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  if (tensor.numel() != 0 && needed > storage.nbytes()) {
    resize_storage(storage, needed);
  }
}

const at::Tensor& resize_(const at::Tensor& self,
                          c10::IntArrayRef size,
                          optional<c10::MemoryFormat> memory_format) {
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != size) {
    impl->set_sizes_contiguous(size);
    reserve(self);
  }
  if (memory_format.has_value()) impl->empty_tensor_restride(*memory_format);
  return self;
}

at::Tensor& set_storage_at(at::Tensor& self,
                           at::Storage source,
                           int64_t offset,
                           c10::IntArrayRef size,
                           c10::IntArrayRef stride) {
  TORCH_CHECK(source.device().type() == device_type,
              "set_: expected a storage on metalsim, got one on ",
              source.device());
  TORCH_CHECK(offset >= 0, "set_: expected a storage offset >= 0, got ",
              offset);
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (stride.data() == nullptr) {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride, offset);
  }
  reserve(self);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  const int64_t count =
      static_cast<int64_t>(source.nbytes()) / self.element_size();
  return set_storage_at(self, std::move(source), 0, {count}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  if (self.is_same(source)) return self;
  return set_storage_at(self, source.storage(), source.storage_offset(),
                        source.sizes(), source.strides());
}

at::Tensor& set_empty(at::Tensor& self) {
  const at::Tensor none = at::empty({0}, self.options());
  return set_storage_at(self, none.storage(), 0, {0}, {});
}

// Between CPU and device and within the device; the CPU's own copy broadcasts,
// converts, and resolves lazy conjugation.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& target, bool) {
  HostViews views;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const at::Tensor source = is_metalsim(self) ? views.open(self) : self;
  const at::Tensor host = is_metalsim(target) ? views.open(target) : target;
  host.copy_(source);
  return target;
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool) {
  copy_from(source, self, false);
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& self,
                                const at::Tensor& target) {
  target.resize_(self.sizes());
  return copy_from(self, target, false);
}

bool is_pinned_tensor(const at::Tensor& self, optional<c10::Device>) {
  return self.device().is_cpu() && self.has_storage() &&
         is_pinned(self.storage().data());
}

at::Tensor pin_memory(const at::Tensor& self, optional<c10::Device>) {
  at::Tensor pinned = at::detail::empty_strided_generic(
      self.sizes(), self.strides(), pinned_allocator(),
      c10::DispatchKeySet(c10::DispatchKey::CPU), self.scalar_type());
  return pinned.copy_(self);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage_at);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_", &set_empty);
  // Not through _copy_from alone, as copy_ would: lazily conjugated tensors are
  // resolved before an operator that does not know them, by copying.
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("is_pinned", &is_pinned_tensor);
  m.impl("_pin_memory", &pin_memory);
  m.impl("_efficientzerotensor", &zero_tensor);
  register_layers(m);
  register_kernels_of_cpu(m);
}

}  // namespace
}  // namespace orchard::metalsim
