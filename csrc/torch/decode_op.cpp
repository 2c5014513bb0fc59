// csrc/torch/decode_op.cpp: a few queries against a cache of keys, dense or
// paged, and its results' shapes alone (Meta): inference only.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <string>

#include "attention/plan.h"
#include "torch/attention_ops.h"
#include "torch/decode_step.h"
#include "torch/inputs.h"
#include "torch/run.h"
#include "torch/tuned.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Problem;
using attention::refuse;
using Step = DecodeStep;

// An int32 tensor beside q, of `dim` dimensions, one row a batch entry.
void check_numbers(const char* name,
                   const Tensor& numbers,
                   const Tensor& q,
                   int64_t dim) {
  if (!numbers.defined()) return;
  if (numbers.device() == q.device() && numbers.scalar_type() == at::kInt &&
      numbers.dim() == dim && numbers.sym_size(0) == q.sym_size(0)) {
    return;
  }
  refuse(kDecode, "expected ", name, " to be int32 with ", dim,
         " dimensions, the first ", q.sym_size(0), " as q's batch, on ",
         q.device(), ", got ", torch_name(numbers.scalar_type()), " of shape ",
         numbers.sym_sizes(), " on ", numbers.device(),
         "; convert it with .to");
}

void check_pages(const Step& step) {
  if (step.cache_rows.defined() || step.left_pads.defined()) {
    throw Error(
        ErrorKind::unsupported,
        std::string("[") + kDecode + "] expected " +
            (step.left_pads.defined() ? "cache_leftpad" : "cache_batch_idx") +
            " without block_table, got both; the table says where the "
            "keys lie: leave out padding, and rows of other entries");
  }
  const c10::SymInt page_size = step.k.sym_size(2);
  if (page_size % attention::kPageUnit != 0 || page_size == 0) {
    refuse(kDecode, "expected pages of a multiple of ", attention::kPageUnit,
           " keys, got ", page_size,
           "; make k_cache and v_cache with other pages");
  }
}

void check_step(const Step& step) {
  check_call(kDecode, step.call());
  if (step.k.sym_size(0) != step.v.sym_size(0)) {
    refuse(kDecode, "expected k_cache and v_cache of one first size, got ",
           step.k.sym_size(0), " and ", step.v.sym_size(0),
           "; slice the larger one");
  }
  if (step.splits < 0) {
    refuse(kDecode, "expected num_splits to be 0 or a number of splits, got ",
           step.splits, "; 0 lets the shapes decide");
  }
  check_numbers("cache_seqlens", step.lengths, step.q, 1);
  check_numbers("block_table", step.table, step.q, 2);
  check_numbers("cache_batch_idx", step.cache_rows, step.q, 1);
  check_numbers("cache_leftpad", step.left_pads, step.q, 1);
  if (step.table.defined()) check_pages(step);
}

Problem problem_of(const Step& step) {
  Problem problem = torch_ops::problem_of(kDecode, step.call());
  problem.cache.is_used = true;
  problem.cache.entries = step.k.size(0);
  problem.cache.has_left_pads = step.left_pads.defined();
  problem.cache.has_rows = step.cache_rows.defined();
  if (step.table.defined()) {
    problem.cache.page_size = step.k.size(2);
    problem.len_kv =
        std::min(step.table.size(1) * step.k.size(2), attention::kMaxLength);
  }
  return problem;
}

// Of a problem that is not empty.  No tile has fewer columns than a page's
// unit, so that splits beyond one for each unit would only be empty.
int64_t splits_of(const device::Device& device,
                  const Step& step,
                  const Problem& problem) {
  if (step.splits == 0) return attention::decode_splits(device, problem);
  const int64_t units =
      (problem.len_kv + attention::kPageUnit - 1) / attention::kPageUnit;
  return std::clamp<int64_t>(step.splits, 1, std::max<int64_t>(units, 1));
}

DecodeOutputs empty_outputs(const Step& step) {
  const Tensor& q = step.q;
  const c10::SymInt batch = q.sym_size(0), heads = q.sym_size(1),
                    rows = q.sym_size(2);
  return {
      empty_like_layout(q, {batch, heads, rows, step.v.sym_size(3)},
                        q.scalar_type(), false),
      at::empty_symint({batch, heads, rows}, q.options().dtype(at::kFloat))};
}

DecodeOutputs shapes_alone(const Step& step) {
  check_step(step);
  return empty_outputs(step);
}

// Whether a step of no queries or no keys has been served.
bool is_served_empty(const Step& step, const DecodeOutputs& outputs) {
  const auto& [out, lse] = outputs;
  if (out.numel() == 0) return true;
  if (step.k.numel() != 0) return false;
  out.zero_();
  lse.fill_(-std::numeric_limits<float>::infinity());
  if (step.sinks.defined()) lse.copy_(step.sinks.view({1, -1, 1}));
  return true;
}

DecodeOutputs run_on_cpu(const Step& step) {
  check_step(step);
  const DecodeOutputs outputs = empty_outputs(step);
  if (!is_served_empty(step, outputs)) decode_on_cpu(step, outputs);
  return outputs;
}

}  // namespace

// A step of no queries is checked as any other and launches nothing.
DecodeOutputs decode_on_device(const DecodeStep& step) {
  check_step(step);
  Problem problem = problem_of(step);
  const DecodeOutputs outputs = empty_outputs(step);
  if (is_served_empty(step, outputs)) return outputs;
  const auto& [out, lse] = outputs;
  const Tensor& q = step.q;
  device::Device& device = tuned_device_of(kDecode, q);
  problem.cache.splits = splits_of(device, step, problem);
  const auto numbers = lse.options();
  // One row of each split for each row of out.
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  const int64_t split_rows = rows * problem.cache.splits;
  const Tensor split_out = at::empty({split_rows, problem.head_dim_v}, numbers);
  const Tensor split_stats = at::empty({split_rows, 2}, numbers);
  attention::Tensors views;
  Inputs inputs(kDecode);
  views.q = inputs.layout(q);
  views.k = inputs.layout(step.k);
  views.v = inputs.layout(step.v);
  views.slopes = inputs.numbers(step.slopes);
  views.sinks = inputs.numbers(step.sinks);
  views.lengths = inputs.numbers(step.lengths);
  views.table = inputs.numbers(step.table);
  views.table_row = step.table.defined() ? step.table.size(1) : 0;
  views.cache_rows = inputs.numbers(step.cache_rows);
  views.left_pads = inputs.numbers(step.left_pads);
  views.split_out = buffer_view(kDecode, split_out);
  views.split_stats = buffer_view(kDecode, split_stats);
  views.out = layout_of(kDecode, out);
  views.lse = buffer_view(kDecode, lse);
  attention::Plan plan;
  attention::plan_decode(device, problem, views, plan);
  run(device, Direction::decode, q, problem, plan, inputs.copies());
  return outputs;
}

namespace {

template <DecodeOutputs (*serve)(const Step&)>
DecodeOutputs decode(const Tensor& q,
                     const Tensor& k_cache,
                     const Tensor& v_cache,
                     const Tensor& cache_seqlens,
                     const OptionalTensor& block_table,
                     const OptionalTensor& cache_batch_idx,
                     const OptionalTensor& cache_leftpad,
                     const OptionalTensor& alibi_slopes,
                     const OptionalTensor& sinks,
                     const OptionalDouble& scale,
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
            given(sinks),
            {},
            num_splits};
  step.settings.scale = scale.has_value() ? *scale : default_scale(q);
  step.settings.softcap = softcap;
  step.settings.window_left = window_left;
  step.settings.window_right = window_right;
  step.settings.is_bottom_right = true;
  return serve(step);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def(
      "decode(Tensor q, Tensor k_cache, Tensor v_cache, Tensor cache_seqlens, "
      "Tensor? block_table, Tensor? cache_batch_idx, Tensor? cache_leftpad, "
      "Tensor? alibi_slopes, Tensor? sinks, float? scale, float softcap, "
      "int window_left, int window_right, int num_splits) -> (Tensor out, "
      "Tensor lse)");
}

TORCH_LIBRARY_IMPL(orchard_ops, PrivateUse1, m) {
  m.impl("decode", decode<decode_on_device>);
}

#ifdef ORCHARD_WITH_METAL
TORCH_LIBRARY_IMPL(orchard_ops, MPS, m) {
  m.impl("decode", decode<decode_on_device>);
}
#endif

TORCH_LIBRARY_IMPL(orchard_ops, CPU, m) {
  m.impl("decode", decode<run_on_cpu>);
}

TORCH_LIBRARY_IMPL(orchard_ops, Meta, m) {
  m.impl("decode", decode<shapes_alone>);
}

// Inference only, which Python checks: no key of autograd stands in the way.
TORCH_LIBRARY_IMPL(orchard_ops, Autograd, m) {
  m.impl("decode", torch::CppFunction::makeFallthrough());
}

}  // namespace orchard::torch_ops
