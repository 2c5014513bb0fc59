// csrc/torch/bridge.h: from a tensor to the device buffer under it.  No storage
// mode needs a copy: on MPS and on metalsim a storage's data pointer is the
// buffer object itself, and a view adds its offset.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>

#include "attention/plan.h"
#include "device/device.h"

namespace orchard::torch_ops {

const char* storage_mode_name(device::StorageMode mode);

// The device that runs kernels for tensors there; Error(unsupported) if none.
device::Device& device_of(const char* operation, const at::Tensor& tensor);

// The buffer under a tensor from its first to its last element; Error(device)
// that says what to do when there is none.
device::BufferView buffer_view(const char* operation, const at::Tensor& tensor);

// The view and strides of a four-dimensional tensor whose last stride is 1.
attention::Layout layout_of(const char* operation, const at::Tensor& tensor);

// The tensor itself if kernels can read it as it is, else a copy, which is
// counted: only a last dimension whose stride is not 1 costs one.
at::Tensor with_unit_last_stride(const at::Tensor& tensor);

struct StorageInfo {
  std::string mode;
  int64_t length_bytes;
  int64_t offset_bytes;
  std::string device_name;
};
StorageInfo storage_info(const at::Tensor& tensor);

// Counted since the process started or the last reset.
struct Counts {
  int64_t forward = 0;
  int64_t backward = 0;
  int64_t copies = 0;
  int64_t bytes_copied = 0;
};
Counts counts();
void reset_counts();
int64_t next_forward_call();
int64_t next_backward_call();

}  // namespace orchard::torch_ops
