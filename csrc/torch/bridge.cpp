// csrc/torch/bridge.cpp: tensors to buffers, per device, and what it cost.
#include "torch/bridge.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>

#ifdef ORCHARD_WITH_METAL
#include "torch/mps_stream.h"
#endif
#ifdef ORCHARD_WITH_SIMULATOR
#include "device/sim/sim.h"
#endif

namespace orchard::torch_ops {
namespace {

std::atomic<int64_t> forward_calls{0};
std::atomic<int64_t> backward_calls{0};
std::atomic<int64_t> copies{0};
std::atomic<int64_t> bytes_copied{0};

// Bytes from the first to the last element of a non-empty tensor.
uint64_t extent_bytes(const at::Tensor& tensor) {
  int64_t last = 0;
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    last += (tensor.size(axis) - 1) * tensor.stride(axis);
  }
  return static_cast<uint64_t>((last + 1) * tensor.element_size());
}

#ifdef ORCHARD_WITH_SIMULATOR
device::BufferView simulated_view(const char* operation,
                                  const at::Tensor& tensor) {
  const void* handle = tensor.storage().data();
  const uint64_t offset =
      static_cast<uint64_t>(tensor.storage_offset() * tensor.element_size());
  if (!sim::is_buffer(handle)) {
    throw Error(ErrorKind::device,
                std::string("[") + operation +
                    "] expected a tensor made by metalsim's allocator, got a "
                    "storage that is no live simulated buffer (freed, or "
                    "wrapped by another library): make it with "
                    "tensor.to('metalsim')");
  }
  return sim::view(static_cast<sim::Buffer*>(const_cast<void*>(handle)), offset,
                   extent_bytes(tensor));
}
#endif

#ifdef ORCHARD_WITH_METAL
bool is_mps(const at::Tensor& tensor) {
  return tensor.device().type() == at::DeviceType::MPS;
}

// The buffer is asked, not PyTorch's allocator: its interface differs from
// version to version, and it knows only its own buffers.
device::BufferView mps_view(const char* operation, const at::Tensor& tensor) {
  void* const handle = const_cast<void*>(tensor.storage().data());
  const metal::BufferInfo info = metal::buffer_info(operation, handle);
  const uint64_t offset =
      static_cast<uint64_t>(tensor.storage_offset() * tensor.element_size());
  const uint64_t extent = extent_bytes(tensor);
  if (offset + extent > info.length_bytes) {
    throw Error(ErrorKind::device,
                std::string("[") + operation + "] a tensor ends at byte " +
                    std::to_string(offset + extent) + " of a buffer of " +
                    std::to_string(info.length_bytes) +
                    " bytes: its storage was resized under it; clone it first");
  }
  return {handle, offset, extent, info.mode};
}
#endif

}  // namespace

const char* storage_mode_name(device::StorageMode mode) {
  switch (mode) {
    case device::StorageMode::shared:
      return "shared";
    case device::StorageMode::managed:
      return "managed";
    case device::StorageMode::private_:
      return "private";
    case device::StorageMode::memoryless:
      break;
  }
  return "memoryless";
}

device::Device& device_of(const char* operation, const at::Tensor& tensor) {
#ifdef ORCHARD_WITH_METAL
  if (is_mps(tensor)) {
    const void* handle = tensor.storage().data();
    if (handle == nullptr) return metal::system_device(mps_stream());
    metal::buffer_info(operation, handle);
    return metal::device_of(handle, mps_stream());
  }
#endif
#ifdef ORCHARD_WITH_SIMULATOR
  if (tensor.device().type() == at::DeviceType::PrivateUse1) {
    return sim::simulator();
  }
#endif
  throw Error(ErrorKind::unsupported,
              std::string("[") + operation +
                  "] expected a tensor on mps, metalsim or cpu, got " +
                  tensor.device().str() + "; move it with .to");
}

device::BufferView buffer_view(const char* operation,
                               const at::Tensor& tensor) {
#ifdef ORCHARD_WITH_METAL
  if (is_mps(tensor)) return mps_view(operation, tensor);
#endif
#ifdef ORCHARD_WITH_SIMULATOR
  if (tensor.device().type() == at::DeviceType::PrivateUse1) {
    return simulated_view(operation, tensor);
  }
#endif
  device_of(operation, tensor);  // throws
  return {};
}

attention::Layout layout_of(const char* operation, const at::Tensor& tensor) {
  attention::Layout layout;
  layout.view = buffer_view(operation, tensor);
  for (size_t axis = 0; axis < 4; ++axis) {
    const int64_t dim = static_cast<int64_t>(axis);
    // The stride of a dimension of one is arbitrary: never used, so zero.
    layout.strides[axis] = tensor.size(dim) == 1 ? 0 : tensor.stride(dim);
  }
  return layout;
}

at::Tensor with_unit_last_stride(const at::Tensor& tensor) {
  if (tensor.size(-1) <= 1 || tensor.stride(-1) == 1) return tensor;
  copies += 1;
  bytes_copied += tensor.numel() * tensor.element_size();
  return tensor.contiguous();
}

StorageInfo storage_info(const at::Tensor& tensor) {
  StorageInfo info;
  device::Device& device = device_of("storage.describe", tensor);
  info.device_name = device.name();
  info.offset_bytes = tensor.storage_offset() * tensor.element_size();
  if (tensor.storage().data() == nullptr) {  // no element, no buffer
    info.mode = "none";
    info.length_bytes = 0;
    return info;
  }
#ifdef ORCHARD_WITH_METAL
  if (is_mps(tensor)) {
    const metal::BufferInfo buffer =
        metal::buffer_info("storage.describe", tensor.storage().data());
    info.mode = storage_mode_name(buffer.mode);
    info.length_bytes = static_cast<int64_t>(buffer.length_bytes);
    return info;
  }
#endif
#ifdef ORCHARD_WITH_SIMULATOR
  const device::BufferView view = buffer_view("storage.describe", tensor);
  info.mode = storage_mode_name(view.mode);
  info.length_bytes = static_cast<int64_t>(
      sim::length_bytes(static_cast<const sim::Buffer*>(view.handle)));
#endif
  return info;
}

Counts counts() {
  return {forward_calls, backward_calls, copies, bytes_copied};
}

void reset_counts() {
  forward_calls = 0;
  backward_calls = 0;
  copies = 0;
  bytes_copied = 0;
}

int64_t next_forward_call() { return ++forward_calls; }
int64_t next_backward_call() { return ++backward_calls; }

}  // namespace orchard::torch_ops
