// csrc/torch/verify/exact.h: attention and its gradients by their formulas, in
// PyTorch's plain operators, for small float64 tensors on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/call.h"

namespace orchard::torch_ops {

struct ExactResults {
  at::Tensor out, lse;
  // Undefined unless grad_out is given; dbias also without a float mask.
  at::Tensor dq, dk, dv, dbias;
};

// `grad_lse` may be undefined, and grad_out: then there are no gradients.
ExactResults attend_exactly(const Call& call,
                            const at::Tensor& grad_out,
                            const at::Tensor& grad_lse);

}  // namespace orchard::torch_ops
