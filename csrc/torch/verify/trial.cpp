// csrc/torch/verify/trial.cpp: see trial.h.
#include "torch/verify/trial.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "torch/attention_ops.h"
#include "torch/decode_step.h"
#include "torch/verify/exact.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::DType;
using attention::Problem;

// Two column tiles of any kernel and a ragged end of rows and of columns.
constexpr int64_t kRows = 75, kColumns = 101;
constexpr int64_t kBatch = 2, kHeadsKv = 2;

at::ScalarType torch_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return at::kFloat;
    case DType::float16:
      return at::kHalf;
    case DType::bfloat16:
      break;
  }
  return at::kBFloat16;
}

// Half of the distance between 1 and the next number.
double rounding(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return std::ldexp(1.0, -24);
    case DType::float16:
      return std::ldexp(1.0, -11);
    case DType::bfloat16:
      break;
  }
  return std::ldexp(1.0, -8);
}

// A tensor in the device's memory, and the same numbers for plain operators.
struct Pair {
  Tensor there, exact;
};

// Makes the inputs of one trial: numbers of mean 0 and variance 1 that look
// random and draw nothing from a generator.
class Inputs {
 public:
  Inputs(const Tensor& like, int64_t vec) : like_(like), vec_(vec) {}

  Tensor draw(at::IntArrayRef sizes) {
    const int64_t count = c10::multiply_integers(sizes);
    const Tensor waves =
        at::sin(at::arange(count, at::kDouble) * 12.9898 + 78.233 * ++drawn_);
    const Tensor long_tails = waves * 43758.5453;
    return ((long_tails - long_tails.floor()) * 2.0 - 1.0)
        .mul_(std::sqrt(3.0))
        .view(sizes);
  }

  // Aligned as the user's tensors are: that is a part of a kernel's text.
  Pair put(const Tensor& numbers, at::ScalarType dtype) {
    const Tensor rounded = numbers.to(dtype);
    const Tensor memory =
        at::empty({numbers.numel() + vec_}, like_.options().dtype(dtype));
    const Tensor there =
        memory.narrow(0, vec_, numbers.numel()).view(numbers.sizes());
    there.copy_(rounded);
    const bool is_float = at::isFloatingType(dtype);
    return {there, is_float ? rounded.to(at::kDouble) : rounded};
  }

  // Those that have a buffer of 32 bits to themselves.
  Pair put_aside(const Tensor& numbers, at::ScalarType dtype) {
    const Tensor rounded = numbers.to(dtype);
    return {rounded.to(like_.device()), rounded};
  }

 private:
  const Tensor& like_;
  int64_t vec_;
  double drawn_ = 0.0;
};

int64_t group_of(const Problem& problem) {
  return std::min<int64_t>(problem.heads_q / problem.heads_kv, 2);
}

// The user's options, with sizes that fit the trial's.
attention::Settings settings_of(const Problem& problem) {
  attention::Settings settings = problem.settings;
  settings.scale = 2.0 / std::sqrt(static_cast<double>(problem.head_dim));
  if (settings.softcap > 0.0) settings.softcap = 2.0;
  if (settings.dropout_p > 0.0) settings.dropout_p = 0.25;
  if (settings.window_left >= 0) settings.window_left = 17;
  if (settings.window_right > 0) settings.window_right = 9;
  return settings;
}

// A call for the device, and the same for plain operators.
struct Calls {
  Call there, exact;

  void set(Tensor Call::* member, const Pair& pair) {
    there.*member = pair.there;
    exact.*member = pair.exact;
  }
};

void add_mask(const Problem& problem, Inputs& inputs, Calls& calls) {
  if (problem.mask == attention::MaskKind::none) return;
  std::array<int64_t, 4> sizes{kBatch, kHeadsKv * group_of(problem), kRows,
                               kColumns};
  for (size_t axis = 0; axis < 4; ++axis) {
    if (problem.mask_sizes[axis] == 1) sizes[axis] = 1;
  }
  const Tensor numbers = inputs.draw(sizes);
  if (problem.mask == attention::MaskKind::boolean) {
    calls.set(&Call::mask, inputs.put(numbers.gt(-1.0), at::kBool));
    return;
  }
  constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
  calls.set(&Call::mask,
            inputs.put(numbers.masked_fill(numbers.lt(-1.6), kMinusInfinity),
                       torch_type(problem.mask_dtype)));
}

void add_per_head(const Problem& problem,
                  Inputs& inputs,
                  Tensor& slopes,
                  Tensor& sinks,
                  Tensor& exact_slopes,
                  Tensor& exact_sinks) {
  const int64_t heads = kHeadsKv * group_of(problem);
  if (problem.has_slopes) {
    const Tensor numbers = problem.has_batch_slopes
                               ? inputs.draw({kBatch, heads})
                               : inputs.draw({heads});
    const Pair pair = inputs.put_aside(numbers.abs() * 0.1, at::kFloat);
    slopes = pair.there;
    exact_slopes = pair.exact;
  }
  if (problem.has_sinks) {
    const Pair pair = inputs.put_aside(inputs.draw({heads}), at::kFloat);
    sinks = pair.there;
    exact_sinks = pair.exact;
  }
}

void add_starts(Inputs& inputs, Calls& calls) {
  calls.set(&Call::starts_q,
            inputs.put_aside(at::tensor({0, 43, int{kRows}}), at::kInt));
  calls.set(&Call::starts_kv,
            inputs.put_aside(at::tensor({0, 60, int{kColumns}}), at::kInt));
  for (Call* call : {&calls.there, &calls.exact}) {
    call->max_len_q = 43;
    call->max_len_kv = 60;
  }
}

Calls calls_of(const Problem& problem, Inputs& inputs) {
  const int64_t batch = problem.is_packed ? 1 : kBatch;
  const int64_t heads_q = kHeadsKv * group_of(problem);
  const auto dtype = torch_type(problem.dtype);
  const auto numbers = [&](int64_t heads, int64_t rows, int64_t dim) {
    return inputs.put(inputs.draw({batch, heads, rows, dim}), dtype);
  };
  Calls calls;
  calls.set(&Call::q, numbers(heads_q, kRows, problem.head_dim));
  calls.set(&Call::k, numbers(kHeadsKv, kColumns, problem.head_dim));
  calls.set(&Call::v, numbers(kHeadsKv, kColumns, problem.head_dim_v));
  add_mask(problem, inputs, calls);
  add_per_head(problem, inputs, calls.there.slopes, calls.there.sinks,
               calls.exact.slopes, calls.exact.sinks);
  if (problem.is_packed) add_starts(inputs, calls);
  for (Call* call : {&calls.there, &calls.exact}) {
    call->settings = settings_of(problem);
    call->needs_lse = true;
    call->seed = at::full({1}, 20240229, at::kLong);
  }
  return calls;
}

// Rounding that an output may be off by, as a multiple of the dtype's and of
// the largest number in it: at least three times what was found on the
// simulator (docs/verification.md).  In 16 bits only inputs of products and
// results are rounded; float32 sums are off by their lengths.
double allowance(uint32_t slot, DType dtype) {
  // Kept in float32 whatever the dtype; scores are sums of head_dim products.
  if (slot == SLOT_LSE) return 64.0 * rounding(DType::float32);
  const double roundings = dtype == DType::float32 ? 64.0 : 6.0;
  return roundings * rounding(dtype);
}

class Comparison {
 public:
  explicit Comparison(DType dtype) : dtype_(dtype) {}

  void add(uint32_t slot, const Tensor& there, const Tensor& exact) {
    const Tensor got = there.cpu().to(at::kDouble);
    const Tensor wanted = exact.to(at::kDouble);
    // Infinities are right where both have them.
    const Tensor off = (got - wanted).abs().masked_fill_(got.eq(wanted), 0.0);
    const double error = off.nan_to_num(std::numeric_limits<double>::infinity())
                             .max()
                             .item<double>();
    const double largest =
        wanted.nan_to_num(0.0, 0.0, 0.0).abs().max().item<double>();
    outputs.push_back({slot, error, allowance(slot, dtype_) * largest});
  }

  std::vector<Deviation> outputs;

 private:
  DType dtype_;
};

std::vector<Deviation> compare_forward(const Problem& problem, Inputs& inputs) {
  const Calls calls = calls_of(problem, inputs);
  const Outputs outputs = run_on_device(calls.there);
  const ExactResults exact = attend_exactly(calls.exact, {}, {});
  Comparison comparison(problem.dtype);
  comparison.add(SLOT_OUT, outputs.out, exact.out);
  comparison.add(SLOT_LSE, outputs.lse, exact.lse);
  return comparison.outputs;
}

std::vector<Deviation> compare_backward(const TrialSubject& subject,
                                        Inputs& inputs) {
  const Problem& problem = subject.problem;
  const Calls calls = calls_of(problem, inputs);
  const Outputs outputs = run_on_device(calls.there);
  const Pair grad_out =
      inputs.put(inputs.draw(outputs.out.sizes()), torch_type(problem.dtype));
  Pair grad_lse;
  if (problem.has_grad_lse) {
    grad_lse = inputs.put_aside(inputs.draw(outputs.lse.sizes()), at::kFloat);
  }
  torch::jit::Stack stack{
      grad_out.there,
      problem.has_grad_lse ? c10::IValue(grad_lse.there) : c10::IValue(),
      outputs.out, outputs.lse, outputs.stats};
  stack.emplace_back(
      c10::List<bool>({subject.has_dq, subject.has_dkdv, subject.has_dkdv,
                       subject.has_dbias, false}));
  calls.there.push(stack);
  run_backward_on_device(stack);
  const ExactResults exact =
      attend_exactly(calls.exact, grad_out.exact, grad_lse.exact);
  Comparison comparison(problem.dtype);
  const auto compare = [&](uint32_t slot, Gradient which, const Tensor& right) {
    if (stack[which].isTensor() && stack[which].toTensor().defined()) {
      comparison.add(slot, stack[which].toTensor(), right);
    }
  };
  compare(SLOT_DQ, kQ, exact.dq);
  compare(SLOT_DK, kK, exact.dk);
  compare(SLOT_DV, kV, exact.dv);
  compare(SLOT_DBIAS, kBias, exact.dbias);
  return comparison.outputs;
}

// Pages that the kernel cuts into the same tiles as the user's.
int64_t page_of(const attention::Cache& cache) {
  return std::min<int64_t>(cache.page_size & -cache.page_size, 64);
}

void add_cache(const Problem& problem,
               Inputs& inputs,
               DecodeStep& there,
               DecodeStep& exact) {
  const auto set = [&](Tensor DecodeStep::* member, const Tensor& numbers) {
    const Pair pair = inputs.put_aside(numbers, at::kInt);
    there.*member = pair.there;
    exact.*member = pair.exact;
  };
  const attention::Cache& cache = problem.cache;
  set(&DecodeStep::lengths, at::tensor({int{kColumns}, 67}));
  if (cache.has_left_pads) {
    set(&DecodeStep::left_pads, at::tensor({0, 13}));
  }
  if (cache.has_rows) set(&DecodeStep::cache_rows, at::tensor({2, 0}));
  if (!cache.is_paged()) return;
  const int64_t pages = (kColumns + page_of(cache) - 1) / page_of(cache);
  // From the last page to the first.
  set(&DecodeStep::table,
      (kBatch * pages - 1 - at::arange(kBatch * pages, at::kLong))
          .view({kBatch, pages}));
}

std::vector<Deviation> compare_decode(const Problem& problem, Inputs& inputs) {
  const attention::Cache& cache = problem.cache;
  const auto dtype = torch_type(problem.dtype);
  const int64_t heads_q = kHeadsKv * group_of(problem);
  // Up to 8 rows of a group have a tile of their own.
  const int64_t rows = problem.rows_of_group() > 8 ? 9
                       : problem.len_q == 1        ? 1
                                                   : 2;
  const int64_t page = cache.is_paged() ? page_of(cache) : kColumns;
  const int64_t pages = (kColumns + page - 1) / page;
  const int64_t entries = cache.is_paged() ? kBatch * pages
                          : cache.has_rows ? kBatch + 1
                                           : kBatch;
  DecodeStep there, exact;
  const auto set = [&](Tensor DecodeStep::* member, at::IntArrayRef sizes) {
    const Pair pair = inputs.put(inputs.draw(sizes), dtype);
    there.*member = pair.there;
    exact.*member = pair.exact;
  };
  set(&DecodeStep::q, {kBatch, heads_q, rows, problem.head_dim});
  set(&DecodeStep::k, {entries, kHeadsKv, page, problem.head_dim});
  set(&DecodeStep::v, {entries, kHeadsKv, page, problem.head_dim_v});
  add_per_head(problem, inputs, there.slopes, there.sinks, exact.slopes,
               exact.sinks);
  add_cache(problem, inputs, there, exact);
  there.settings = exact.settings = settings_of(problem);
  there.splits = 3;
  const auto [out, lse] = decode_on_device(there);
  const DecodeOutputs right{
      at::empty(out.sizes(), exact.q.options()),
      at::empty(lse.sizes(), exact.q.options().dtype(at::kFloat))};
  decode_on_cpu(exact, right);
  Comparison comparison(problem.dtype);
  comparison.add(SLOT_OUT, out, std::get<0>(right));
  comparison.add(SLOT_LSE, lse, std::get<1>(right));
  return comparison.outputs;
}

}  // namespace

const Deviation& TrialResult::worst() const {
  return *std::max_element(outputs.begin(), outputs.end(),
                           [](const Deviation& a, const Deviation& b) {
                             return a.ratio() < b.ratio();
                           });
}

TrialResult try_kernels(const TrialSubject& subject,
                        const Tensor& like,
                        const std::string& folder) {
  const at::AutoDispatchBelowADInplaceOrView no_derivatives;
  const c10::impl::ExcludeDispatchKeyGuard no_casts(
      c10::DispatchKey::AutocastCPU);
  Aside aside(subject.scratch, folder);
  Inputs inputs(like, subject.vec);
  TrialResult result;
  switch (subject.direction) {
    case Direction::forward:
      result.outputs = compare_forward(subject.problem, inputs);
      break;
    case Direction::backward:
      result.outputs = compare_backward(subject, inputs);
      break;
    case Direction::decode:
      result.outputs = compare_decode(subject.problem, inputs);
      break;
  }
  result.kernels = aside.kernels();
  return result;
}

}  // namespace orchard::torch_ops
