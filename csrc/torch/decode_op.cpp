// csrc/torch/decode_op.cpp: a few queries against a cache of keys, dense or
// paged: inference only.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "attention/plan.h"
#include "torch/attention_ops.h"
#include "torch/call.h"
#include "torch/inputs.h"
#include "torch/run.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Problem;
using attention::refuse;

struct Step {
  Tensor q, k, v, lengths, table, cache_rows, left_pads, slopes;
  attention::Settings settings;
  int64_t splits = 0;
};

// An int32 tensor beside q, of `dim` dimensions, one row a batch entry.
void check_numbers(const char* name,
                   const Tensor& numbers,
                   const Tensor& q,
                   int64_t dim) {
  if (!numbers.defined()) return;
  if (numbers.device() == q.device() && numbers.scalar_type() == at::kInt &&
      numbers.dim() == dim && numbers.size(0) == q.size(0)) {
    return;
  }
  refuse(kDecode, name, " must be int32 on ", q.device().str(), " with ", dim,
         " dimensions, the first ", q.size(0), ", got ",
         c10::toString(numbers.scalar_type()), " of shape ", numbers.sizes(),
         " on ", numbers.device().str());
}

// A cache may have more or fewer batch entries than q, and pages instead.
void check_step(const Step& step) {
  Call call;
  call.q = step.q;
  call.k = step.k;
  call.v = step.v;
  call.slopes = step.slopes;
  call.settings = step.settings;
  const bool is_indirect = step.table.defined() || step.cache_rows.defined();
  if (is_indirect && step.q.dim() == 4 && step.k.dim() == 4 &&
      step.v.dim() == 4) {
    const auto entry = [&](const Tensor& cache) {
      return cache.new_empty(
          {step.q.size(0), cache.size(1), cache.size(2), cache.size(3)},
          cache.options().device(at::kMeta));
    };
    call.q = entry(step.q);
    call.k = entry(step.k);
    call.v = entry(step.v);
    call.slopes = Tensor();
    if (step.k.size(0) != step.v.size(0)) {
      refuse(kDecode, "k_cache and v_cache must have the same first size, got ",
             step.k.size(0), " and ", step.v.size(0));
    }
  }
  check_call(kDecode, call);
  if (!step.lengths.defined()) refuse(kDecode, "cache_seqlens is missing");
  check_numbers("cache_seqlens", step.lengths, step.q, 1);
  check_numbers("block_table", step.table, step.q, 2);
  check_numbers("cache_batch_idx", step.cache_rows, step.q, 1);
  check_numbers("cache_leftpad", step.left_pads, step.q, 1);
  if (step.table.defined() &&
      (step.cache_rows.defined() || step.left_pads.defined())) {
    refuse(kDecode,
           "block_table cannot be combined with cache_batch_idx or "
           "cache_leftpad");
  }
  if (step.table.defined() &&
      (step.k.size(2) % attention::kPageUnit != 0 || step.k.size(2) == 0)) {
    refuse(kDecode, "a page must hold a multiple of ", attention::kPageUnit,
           " keys, got ", step.k.size(2));
  }
}

Problem problem_of(const Step& step) {
  Call call;
  call.q = step.q;
  call.k = step.k;
  call.v = step.v;
  call.slopes = step.slopes;
  call.settings = step.settings;
  Problem problem = torch_ops::problem_of(kDecode, call);
  problem.cache.is_used = true;
  problem.cache.has_left_pads = step.left_pads.defined();
  problem.cache.has_rows = step.cache_rows.defined();
  if (step.table.defined()) {
    problem.cache.page_size = step.k.size(2);
    problem.len_kv = step.table.size(1) * step.k.size(2);
  }
  problem.cache.splits =
      step.splits > 0 ? step.splits : attention::decode_splits(problem);
  return problem;
}

std::tuple<Tensor, Tensor> run(const Step& step) {
  check_step(step);
  const Tensor& q = step.q;
  const Tensor out = empty_like_layout(
      q, {q.size(0), q.size(1), q.size(2), step.v.size(3)}, false);
  const auto numbers = q.options().dtype(at::kFloat);
  const Tensor lse = at::empty({q.size(0), q.size(1), q.size(2)}, numbers);
  if (out.numel() == 0) return {out, lse};
  if (step.k.numel() == 0) {
    out.zero_();
    lse.fill_(-std::numeric_limits<float>::infinity());
    return {out, lse};
  }
  const Problem problem = problem_of(step);
  // One row of parts for each row of out.
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  const int64_t parts = rows * problem.cache.splits;
  const Tensor sums = at::empty({parts, problem.head_dim_v}, numbers);
  const Tensor stats = at::empty({parts, 2}, numbers);
  attention::Tensors views;
  Inputs inputs(kDecode);
  views.q = inputs.layout(q);
  views.k = inputs.layout(step.k);
  views.v = inputs.layout(step.v);
  views.slopes = inputs.numbers(step.slopes);
  views.lengths = inputs.numbers(step.lengths);
  views.table = inputs.numbers(step.table);
  views.table_row = step.table.defined() ? step.table.size(1) : 0;
  views.cache_rows = inputs.numbers(step.cache_rows);
  views.left_pads = inputs.numbers(step.left_pads);
  views.parts = buffer_view(kDecode, sums);
  views.part_stats = buffer_view(kDecode, stats);
  views.out = layout_of(kDecode, out);
  views.lse = buffer_view(kDecode, lse);
  device::Device& device = device_of(kDecode, q);
  attention::Plan plan;
  attention::plan_decode(device, problem, views, plan);
  run(device, Direction::decode, q, problem, plan, inputs.copies());
  return {out, lse};
}

std::tuple<Tensor, Tensor> decode(const Tensor& q,
                                  const Tensor& k_cache,
                                  const Tensor& v_cache,
                                  const Tensor& cache_seqlens,
                                  const OptionalTensor& block_table,
                                  const OptionalTensor& cache_batch_idx,
                                  const OptionalTensor& cache_leftpad,
                                  const OptionalTensor& alibi_slopes,
                                  double scale,
                                  double softcap,
                                  int64_t window_left,
                                  int64_t window_right,
                                  int64_t num_splits) {
  const auto given = [](const OptionalTensor& tensor) {
    return tensor.has_value() ? *tensor : Tensor();
  };
  Step step{q,
            k_cache,
            v_cache,
            cache_seqlens,
            given(block_table),
            given(cache_batch_idx),
            given(cache_leftpad),
            given(alibi_slopes),
            {},
            num_splits};
  step.settings.scale = scale;
  step.settings.softcap = softcap;
  step.settings.window_left = window_left;
  step.settings.window_right = window_right;
  step.settings.is_bottom_right = true;
  return run(step);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def(
      "decode(Tensor q, Tensor k_cache, Tensor v_cache, Tensor cache_seqlens, "
      "Tensor? block_table, Tensor? cache_batch_idx, Tensor? cache_leftpad, "
      "Tensor? alibi_slopes, float scale, float softcap, int window_left, "
      "int window_right, int num_splits) -> (Tensor out, Tensor lse)");
}

TORCH_LIBRARY_IMPL(orchard_ops, PrivateUse1, m) { m.impl("decode", decode); }

#ifdef ORCHARD_WITH_METAL
TORCH_LIBRARY_IMPL(orchard_ops, MPS, m) { m.impl("decode", decode); }
#endif

// Inference only, which Python checks: no key of autograd stands in the way.
TORCH_LIBRARY_IMPL(orchard_ops, Autograd, m) {
  m.impl("decode", torch::CppFunction::makeFallthrough());
}

}  // namespace orchard::torch_ops
