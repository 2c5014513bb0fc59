// csrc/torch/composite.h: attention by its definition, from PyTorch's own
// operators, for tensors of any device.  Differentiable as they are; holds all
// scores in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/call.h"

namespace orchard::torch_ops {

struct Weights {
  at::Tensor weights;  // after the softmax, before dropout; float32 or wider
  at::Tensor lse;      // float32
};

// Of a checked call of one batch, not packed, with a key head for each query
// head.
Weights softmax_weights(const Call& call);

// The same call with a key and a value head of its own for each query head.
Call with_repeated_heads(Call call);

// The weights that a call's dropout keeps, as the kernels draw them: a bool
// tensor on the CPU of [batch, heads, len_q, len_kv].  `first_batch` is the
// number of the first batch entry, or of the packed sequence.
at::Tensor keep_mask(const Call& call,
                     c10::SymIntArrayRef shape,
                     int64_t first_batch);

}  // namespace orchard::torch_ops
