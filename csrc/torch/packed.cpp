// csrc/torch/packed.cpp: see packed.h.
#include "torch/packed.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "torch/cpu_sdpa.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;

// Rows of the whole that are in a part; as kernels/tile/domain.h has it.
Rows rows_in_part(const std::vector<int64_t>& starts,
                  size_t index,
                  int64_t offset,
                  int64_t rows) {
  return {std::clamp<int64_t>(starts[index] - offset, 0, rows),
          std::clamp<int64_t>(starts[index + 1] - offset, 0, rows)};
}

}  // namespace

// Waits for nothing: the tensor is on the CPU.
std::vector<int64_t> numbers_in(const Tensor& tensor) {
  std::vector<int64_t> numbers;
  if (is_readable(tensor)) {
    const Tensor whole = tensor.to(at::kLong).contiguous();
    const auto* const first = static_cast<const int64_t*>(whole.data_ptr());
    numbers.assign(first, first + whole.numel());
    return numbers;
  }
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    numbers.push_back(tensor.select(0, i).item<int64_t>());
  }
  return numbers;
}

Sequence sequence_of(const Call& call,
                     const std::vector<int64_t>& starts_q,
                     const std::vector<int64_t>& starts_kv,
                     size_t index) {
  Sequence found{call,
                 {starts_q[index], starts_q[index + 1]},
                 {starts_kv[index], starts_kv[index + 1]}};
  if (call.is_partial()) {
    attention::Part& part = *found.call.settings.part;
    found.q = rows_in_part(starts_q, index, part.q_offset, call.q.size(2));
    found.kv = rows_in_part(starts_kv, index, part.k_offset, call.k.size(2));
    part.q_offset = std::max<int64_t>(part.q_offset - starts_q[index], 0);
    part.k_offset = std::max<int64_t>(part.k_offset - starts_kv[index], 0);
  }
  Call& one = found.call;
  one.q = call.q.slice(2, found.q.begin, found.q.end);
  one.k = call.k.slice(2, found.kv.begin, found.kv.end);
  one.v = call.v.slice(2, found.kv.begin, found.kv.end);
  one.starts_q = one.starts_kv = Tensor();
  if (call.slopes.defined() && call.slopes.dim() == 2) {
    one.slopes = call.slopes.select(0, static_cast<int64_t>(index));
  }
  return found;
}

}  // namespace orchard::torch_ops
