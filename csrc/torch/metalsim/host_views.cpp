// csrc/torch/metalsim/host_views.cpp: opening, committing and adopting.
#include "torch/metalsim/host_views.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>
#include <utility>

namespace orchard::metalsim {
namespace {

bool same(const c10::Storage& a, const c10::Storage& b) {
  return a.unsafeGetStorageImpl() == b.unsafeGetStorageImpl();
}

void copy_shape(const at::Tensor& from, const at::Tensor& to) {
  to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(),
                                                  from.storage_offset());
}

bool same_shape(const at::Tensor& a, const at::Tensor& b) {
  return a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}

// A tensor with `like`'s type and shape over another device's storage.
at::Tensor over(const c10::Storage& storage,
                c10::DispatchKey key,
                const at::Tensor& like) {
  c10::Storage owner = storage;
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(owner), c10::DispatchKeySet(key), like.dtype());
  copy_shape(like, tensor);
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  // Lazy conjugation and negation are bits of the tensor, not of its memory.
  if (like.is_conj()) impl->_set_conj(true);
  if (like.is_neg()) impl->_set_neg(true);
  return tensor;
}

c10::Storage host_storage_over(void* data, size_t bytes) {
  // Resizable by the CPU's allocator: an out= argument that grows moves there
  // and is carried back by commit().
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(),
      c10::SymInt(static_cast<int64_t>(bytes)),
      c10::DataPtr(data, c10::DeviceType::CPU), c10::GetCPUAllocator(),
      /*resizable=*/true));
}

c10::Storage device_storage_of(size_t bytes, const void* content) {
  c10::DataPtr data = allocator()->allocate(bytes);
  if (bytes != 0) {
    sim::HostAccess access(static_cast<sim::Buffer*>(data.get()));
    std::memcpy(access.data(), content, bytes);
  }
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(),
      c10::SymInt(static_cast<int64_t>(bytes)), std::move(data), allocator(),
      /*resizable=*/true));
}

}  // namespace

const c10::Storage& HostViews::host_storage(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  for (const Window& window : windows_) {
    if (same(window.device, storage)) return window.host;
  }
  Window& window = windows_.emplace_back();
  window.device = storage;
  window.bytes = storage.nbytes();
  if (sim::Buffer* buffer = buffer_of(*storage.unsafeGetStorageImpl())) {
    window.data = window.access.emplace(buffer).data();
  }
  window.host = host_storage_over(window.data, window.bytes);
  return window.host;
}

at::Tensor HostViews::open(const at::Tensor& tensor) {
  for (const Pair& pair : pairs_) {
    if (pair.device.is_same(tensor)) return pair.host;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      tensor.layout() == c10::kStrided && tensor.has_storage(),
      "[UnsupportedError] metalsim: expected a strided tensor, got layout ",
      tensor.layout());
  at::Tensor host = over(host_storage(tensor), c10::DispatchKey::CPU, tensor);
  pairs_.push_back({tensor, host});
  return host;
}

void HostViews::carry_back(Window& window) {
  const size_t bytes = window.host.nbytes();
  const void* data = window.host.data();
  if (data == window.data && bytes == window.bytes) return;
  c10::Storage moved = device_storage_of(bytes, data);
  // The old buffer may be freed below: its window must close before.
  window.access.reset();
  c10::StorageImpl* device = window.device.unsafeGetStorageImpl();
  device->set_data_ptr_noswap(
      moved.unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr()));
  device->set_nbytes(bytes);
  window.data = nullptr;
}

void HostViews::commit() {
  for (Window& window : windows_) carry_back(window);
  for (const Pair& pair : pairs_) {
    if (!same_shape(pair.host, pair.device)) copy_shape(pair.host, pair.device);
  }
}

c10::Storage HostViews::device_storage(const c10::Storage& host) {
  for (const Window& window : windows_) {
    if (same(window.host, host)) return window.device;
  }
  for (const Pair& pair : fresh_) {
    if (same(pair.host.storage(), host)) return pair.device.storage();
  }
  return device_storage_of(host.nbytes(), host.data());
}

at::Tensor HostViews::adopt(const at::Tensor& result) {
  if (!result.defined() || is_metalsim(result)) return result;
  for (const Pair& pair : pairs_) {
    if (pair.host.is_same(result)) return pair.device;
  }
  for (const at::Tensor& argument : kept_) {
    if (argument.is_same(result)) return result;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      result.layout() == c10::kStrided && result.has_storage(),
      "[UnsupportedError] metalsim: an operator returned a tensor of layout ",
      result.layout(), ", the device has strided tensors only");
  at::Tensor device = over(device_storage(result.storage()),
                           c10::DispatchKey::PrivateUse1, result);
  fresh_.push_back({device, result});
  return device;
}

}  // namespace orchard::metalsim
