// csrc/torch/packed.h: packed sequences one by one, where the numbers of
// cu_seqlens are at hand.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "torch/call.h"

namespace orchard::torch_ops {

// The numbers of an int32 tensor on the CPU.
std::vector<int64_t> numbers_in(const at::Tensor& tensor);

// The rows of a tensor that are one sequence's.
struct Rows {
  int64_t begin;
  int64_t end;
};

// One sequence of a packed call, or what of it is in a part of the whole.
struct Sequence {
  Call call;  // not packed
  Rows q;
  Rows kv;
};

Sequence sequence_of(const Call& call,
                     const std::vector<int64_t>& starts_q,
                     const std::vector<int64_t>& starts_kv,
                     size_t index);

}  // namespace orchard::torch_ops
