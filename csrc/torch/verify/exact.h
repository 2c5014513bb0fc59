// csrc/torch/verify/exact.h: attention and its gradients by their formulas, in
// PyTorch's plain operators, float64 and on the CPU, for small tensors of any
// device.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/call.h"
#include "torch/decode_step.h"

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

// `like`: the outputs of a device.
DecodeOutputs decode_exactly(const DecodeStep& step, const DecodeOutputs& like);

}  // namespace orchard::torch_ops
