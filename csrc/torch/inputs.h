// csrc/torch/inputs.h: the tensors that one plan reads, in memory that kernels
// can read.
#pragma once

#include <ATen/ATen.h>

#include "attention/plan.h"
#include "device/small_vector.h"
#include "torch/bridge.h"

namespace orchard::torch_ops {

// Holds them while the views are in use; counts the copies made.
class Inputs {
 public:
  explicit Inputs(const char* operation) : operation_(operation) {}

  attention::Layout layout(const at::Tensor& tensor) {
    const at::Tensor readable = with_unit_last_stride(tensor);
    copies_ += !readable.is_same(tensor);
    held_.push_back(readable);
    return layout_of(operation_, readable);
  }

  // A small tensor, made contiguous; an empty view of an undefined one.
  device::BufferView numbers(const at::Tensor& tensor) {
    if (!tensor.defined()) return {};
    held_.push_back(tensor.contiguous());
    return buffer_view(operation_, held_.back());
  }

  int64_t copies() const { return copies_; }

 private:
  const char* operation_;
  device::SmallVector<at::Tensor, 12> held_;
  int64_t copies_ = 0;
};

}  // namespace orchard::torch_ops
