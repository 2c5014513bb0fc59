// tests/metal/cuda/bridge.cpp: csrc/torch/bridge.h for CUDA tensors, in place
// of bridge.cpp, and the operators under PyTorch's key for them.
#include "torch/bridge.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <atomic>

#include "cuda/device.h"

namespace orchard::torch_ops {
namespace {

std::atomic<int64_t> forward_calls{0};
std::atomic<int64_t> backward_calls{0};
std::atomic<int64_t> copies{0};
std::atomic<int64_t> bytes_copied{0};

void require_cuda(const char* operation, const at::Tensor& tensor) {
  if (tensor.is_cuda()) return;
  throw Error(ErrorKind::unsupported,
              std::string("[") + operation +
                  "] this build runs on cuda tensors, got " +
                  tensor.device().str());
}

// What serves the simulator's tensors serves these: the same host code.
void as_private_use(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  op.callBoxedForDispatchKey(c10::DispatchKey::PrivateUse1, *stack);
}

TORCH_LIBRARY_IMPL(orchard_ops, CUDA, m) {
  for (const char* name : {"forward", "backward", "decode"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&as_private_use>());
  }
}

}  // namespace

const char* storage_mode_name(device::StorageMode /*mode*/) {
  return "private";
}

device::Device& device_of(const char* operation, const at::Tensor& tensor) {
  require_cuda(operation, tensor);
  return cuda::system_device();
}

device::BufferView buffer_view(const char* operation,
                               const at::Tensor& tensor) {
  require_cuda(operation, tensor);
  int64_t last = 0;
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    last += (tensor.size(axis) - 1) * tensor.stride(axis);
  }
  return {
      const_cast<void*>(tensor.storage().data()),
      static_cast<uint64_t>(tensor.storage_offset() * tensor.element_size()),
      static_cast<uint64_t>((last + 1) * tensor.element_size()),
      device::StorageMode::private_};
}

attention::Layout layout_of(const char* operation, const at::Tensor& tensor) {
  attention::Layout layout;
  layout.view = buffer_view(operation, tensor);
  for (size_t axis = 0; axis < 4; ++axis) {
    const auto dim = static_cast<int64_t>(axis);
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
  require_cuda("storage.describe", tensor);
  return {"private", static_cast<int64_t>(tensor.storage().nbytes()),
          tensor.storage_offset() * tensor.element_size(),
          cuda::system_device().name()};
}

Counts counts() {
  return {forward_calls, backward_calls, copies, bytes_copied};
}

void reset_counts() {
  forward_calls = backward_calls = copies = bytes_copied = 0;
}

int64_t next_forward_call() { return ++forward_calls; }
int64_t next_backward_call() { return ++backward_calls; }

}  // namespace orchard::torch_ops
