// csrc/torch/cpu_sdpa.h: PyTorch's own attention function on CPU tensors, and
// where it is right.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/call.h"

namespace orchard::torch_ops {

// Whether a tensor's numbers can be looked at: no wrapper of a transform, a
// compiler or a lazy sign.
bool is_readable(const at::Tensor& tensor);

// What PyTorch's function gives for a checked call of CPU tensors, not packed,
// with a key head for each query head; undefined where the definition must
// serve.
at::Tensor sdpa_out(const Call& call);

}  // namespace orchard::torch_ops
