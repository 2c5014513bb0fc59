// tests/metal/runtime/pytorch/mps_device.cpp: PyTorch's mps device on Linux, as
// much of it as tests need: storages over the stand-in's MTLBuffers, copies.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>

#include "device/sim/sim.h"
#include "metal.h"
#include "streams/mps.h"
#include "runtime.h"
#include "torch/metalsim/compat.h"

namespace standin {
namespace {

using orchard::device::StorageMode;
using orchard::metalsim::optional;
namespace sim = orchard::sim;

constexpr c10::DeviceType kType = c10::DeviceType::MPS;
constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::MPS);

// PyTorch's own allocator gives private buffers up to 2.11, shared ones after.
StorageMode mode() {
  const char* wanted = std::getenv("STANDIN_STORAGE_MODE");
  const bool is_shared = wanted != nullptr && std::string(wanted) == "shared";
  return is_shared ? StorageMode::shared : StorageMode::private_;
}

// What torch.mps tells of memory.  PyTorch's allocator keeps what is freed
// until empty_cache(), so what the driver gave is the most that was in use
// since then.
std::atomic<size_t> in_use{0}, given{0};

struct Block {
  void* buffer;
  size_t bytes;
};

void free_block(void* context) {
  const auto* block = static_cast<Block*>(context);
  in_use -= block->bytes;
  release(static_cast<Object*>(block->buffer));
  delete block;
}

void* new_block(void* buffer, size_t bytes) {
  const size_t now = in_use += bytes;
  size_t most = given;
  while (most < now && !given.compare_exchange_weak(most, now)) {
  }
  return new Block{buffer, bytes};
}

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) ORCHARD_ALLOCATE_CONST override {
    const c10::Device device(kType, 0);
    if (bytes == 0) return {nullptr, device};
    void* buffer = new_buffer(bytes, mode());
    return {buffer, new_block(buffer, bytes), &free_block, device};
  }
  void copy_data(void*, const void*, size_t) const { std::abort(); }
};

Allocator& allocator() {
  static Allocator& it = *new Allocator;
  return it;
}

bool is_mps(const at::Tensor& tensor) {
  return tensor.device().type() == kType;
}

// What PyTorch's empty_mps (aten/src/ATen/mps/EmptyTensor.cpp) refuses, with
// its TypeErrors: float64 always, bfloat16 before 2.3 and, from then on, on
// macOS 13.
void check_dtype(optional<c10::ScalarType> dtype) {
  TORCH_CHECK_TYPE(
      c10::dtype_or_default(dtype) != c10::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework "
      "doesn't support float64. Please use float32 instead.");
  if (dtype != c10::kBFloat16) return;
#if ORCHARD_TORCH_MAJOR == 2 && ORCHARD_TORCH_MINOR < 3
  TORCH_CHECK_TYPE(false, "BFloat16 is not supported on MPS");
#else
  const char* macos = std::getenv("STANDIN_MACOS");
  TORCH_CHECK_TYPE(macos == nullptr || std::string(macos) != "13",
                   "MPS BFloat16 is only supported on MacOS 14 or newer");
#endif
}

at::Tensor empty(c10::IntArrayRef size,
                 optional<c10::ScalarType> dtype,
                 optional<c10::Layout>,
                 optional<c10::Device>,
                 optional<bool>,
                 optional<c10::MemoryFormat> format) {
  check_dtype(dtype);
  return at::detail::empty_generic(size, &allocator(), kKeys,
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size,
                         c10::IntArrayRef stride,
                         optional<c10::ScalarType> dtype,
                         optional<c10::Layout>,
                         optional<c10::Device>,
                         optional<bool>) {
  check_dtype(dtype);
  return at::detail::empty_strided_generic(size, stride, &allocator(), kKeys,
                                           c10::dtype_or_default(dtype));
}

// Before 2.2 PyTorch's own refuses mps tensors.
at::Tensor as_strided(const at::Tensor& self,
                      c10::IntArrayRef size,
                      c10::IntArrayRef stride,
                      optional<int64_t> offset) {
  at::Tensor alias = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(),
      self.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(
      size, stride, offset.value_or(self.storage_offset()));
  return alias;
}

at::Tensor view(const at::Tensor& self, c10::IntArrayRef size) {
  return at::native::view(self, size);
}

at::Tensor reshape_alias(const at::Tensor& self,
                         c10::IntArrayRef size,
                         c10::IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

const at::Tensor& resize_(const at::Tensor& self,
                          c10::IntArrayRef size,
                          optional<c10::MemoryFormat>) {
  if (self.sizes() == size) return self;
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  const size_t needed = static_cast<size_t>(
      (self.storage_offset() + self.numel()) * self.element_size());
  c10::StorageImpl& storage = *self.storage().unsafeGetStorageImpl();
  if (needed <= storage.nbytes()) return self;
  storage.set_data_ptr_noswap(allocator().allocate(needed));  // new contents
  storage.set_nbytes(needed);
  return self;
}

// The memory of a tensor as the CPU sees it, open as long as `access` lives.
at::Tensor host(const at::Tensor& tensor,
                std::optional<sim::HostAccess>& access) {
  if (!is_mps(tensor) || tensor.numel() == 0) {
    return is_mps(tensor) ? at::empty(tensor.sizes(), tensor.scalar_type())
                          : tensor;
  }
  void* const buffer = const_cast<void*>(tensor.storage().data());
  access.emplace(memory_of(buffer));
  auto* const first = static_cast<char*>(access->data()) +
                      tensor.storage_offset() * tensor.element_size();
  return at::from_blob(first, tensor.sizes(), tensor.strides(),
                       at::TensorOptions(tensor.scalar_type()));
}

void synchronize_all() {
  for (int i = 0; i < stream_count(); ++i) synchronize_stream(i);
}

// As PyTorch's copies do: after all that the streams still hold.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& target, bool) {
  // PyTorch converts on the GPU, on the way to the CPU too (copy_from_mps_ in
  // aten/src/ATen/native/mps/operations/Copy.mm).
  if (is_mps(self)) check_dtype(target.scalar_type());
  synchronize_all();
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const bool is_one_buffer = is_mps(self) && is_mps(target) &&
                             self.storage().data() == target.storage().data();
  std::optional<sim::HostAccess> from, to;
  at::Tensor source = host(self, from);
  if (is_one_buffer) {
    source = source.clone();
    from.reset();
  }
  host(target, to).copy_(source);
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

TORCH_LIBRARY_IMPL(aten, MPS, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("resize_", &resize_);
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
}

// One device and, for autograd, one stream.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Stream = c10::Stream;
  using Device = c10::Device;
  static Device device() { return {kType, 0}; }
  static Stream stream() { return Stream(Stream::DEFAULT, device()); }

  c10::DeviceType type() const override { return kType; }
  Device exchangeDevice(Device) const override { return device(); }
  Device getDevice() const override { return device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override { synchronize_all(); }
  void record(void**,
              const Stream&,
              const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

C10_REGISTER_GUARD_IMPL(MPS, Guard);

}  // namespace
}  // namespace standin

namespace at {
namespace {

// What makes PyTorch say that there is an MPS device.  Without `override`: some
// functions came with later versions, and others went.
class MPSHooks final : public MPSHooksInterface {
 public:
  MPSHooks() = default;
  explicit MPSHooks(MPSHooksArgs) {}
  void init() const {}
  void initMPS() const {}
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasMPS() const { return true; }
  bool hasPrimaryContext(DeviceIndex) const { return true; }
  bool isOnMacOSorNewer(unsigned = 13, unsigned = 0) const { return true; }
  bool isOnMacOS13orNewer(unsigned = 0) const { return true; }
  DeviceIndex deviceCount() const { return 1; }
  DeviceIndex getCurrentDevice() const { return 0; }
  const Generator& getDefaultMPSGenerator() const {
    return detail::getDefaultCPUGenerator();
  }
  const Generator& getDefaultGenerator(DeviceIndex = -1) const {
    return detail::getDefaultCPUGenerator();
  }
  Allocator* getMPSDeviceAllocator() const { return &standin::allocator(); }
  void deviceSynchronize() const { standin::synchronize_all(); }
  size_t getCurrentAllocatedMemory() const { return standin::in_use; }
  size_t getDriverAllocatedMemory() const { return standin::given; }
  void emptyCache() const { standin::given = standin::in_use.load(); }
};

C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, MPSHooks)

}  // namespace
}  // namespace at

REGISTER_ALLOCATOR(standin::kType, &standin::allocator())
