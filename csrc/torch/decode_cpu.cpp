// csrc/torch/decode_cpu.cpp: a decoding step of CPU tensors, one batch entry
// after the other, each over a copy of its keys if they lie in pages.
#include <ATen/ATen.h>

#include <algorithm>

#include "torch/cpu_op.h"
#include "torch/decode_step.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;

// A number that names a place outside the cache becomes the nearest inside, as
// in kernels/decode.metal.
int64_t number_at(const Tensor& numbers, int64_t index, int64_t last) {
  const int64_t number = numbers.select(0, index).item<int64_t>();
  return std::clamp<int64_t>(number, 0, std::max<int64_t>(last, 0));
}

// Where the keys of a batch entry lie.
struct Entry {
  int64_t row;  // of the cache, if there are no pages
  Tensor pages;
  int64_t begin, end;
};

Entry entry_at(const DecodeStep& step, int64_t index) {
  const int64_t page_size = step.k.size(2), last = step.k.size(0) - 1;
  const bool is_paged = step.table.defined();
  const int64_t capacity =
      is_paged ? step.table.size(1) * page_size : page_size;
  Entry entry{index, {}, 0, number_at(step.lengths, index, capacity)};
  if (step.left_pads.defined()) {
    entry.begin = number_at(step.left_pads, index, entry.end);
  }
  if (step.cache_rows.defined()) {
    entry.row = number_at(step.cache_rows, index, last);
  }
  if (is_paged) {  // Past its length the table may say anything.
    const int64_t used = (entry.end + page_size - 1) / page_size;
    entry.pages = step.table.select(0, index)
                      .slice(0, 0, used)
                      .clamp(0, std::max<int64_t>(last, 0));
  }
  return entry;
}

// [1, heads_kv, keys, head_dim].
Tensor keys_of(const Tensor& cache, const Entry& entry) {
  const Tensor keys =
      entry.pages.defined()
          ? cache.index_select(0, entry.pages).transpose(0, 1).flatten(1, 2)
          : cache.select(0, entry.row);
  return keys.slice(1, entry.begin, entry.end).unsqueeze(0);
}

}  // namespace

void decode_on_cpu(const DecodeStep& step, const DecodeOutputs& outputs) {
  const auto& [out, lse] = outputs;
  const c10::impl::ExcludeDispatchKeyGuard no_casts(
      c10::DispatchKey::AutocastCPU);
  for (int64_t index = 0; index < step.q.size(0); ++index) {
    const Entry entry = entry_at(step, index);
    Call call = step.call();
    call.q = step.q.narrow(0, index, 1);
    call.k = keys_of(step.k, entry);
    call.v = keys_of(step.v, entry);
    if (step.slopes.defined() && step.slopes.dim() == 2) {
      call.slopes = step.slopes.select(0, index);
    }
    call.needs_lse = true;
    const CpuOutputs of_entry = attend_on_cpu(call, 0);
    out.select(0, index).copy_(of_entry.out.squeeze(0));
    lse.select(0, index).copy_(of_entry.lse.squeeze(0));
  }
}

}  // namespace orchard::torch_ops
