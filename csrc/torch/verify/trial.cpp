// csrc/torch/verify/trial.cpp: see trial.h.
#include "torch/verify/trial.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "torch/attention_ops.h"
#include "torch/decode_step.h"
#include "torch/verify/exact.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::DType;
using attention::MaskKind;
using attention::Problem;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Two column tiles of any kernel and a ragged end of rows and of columns.
constexpr int64_t kRows = 75, kColumns = 101;
constexpr int64_t kBatch = 2, kHeadsKv = 2;
// The first of two packed sequences.
constexpr int kFirstRows = 43, kFirstColumns = 60;
// Of a part of a whole: so many rows lie before its own, and of packed
// sequences the first ends within it, the second beyond it.
constexpr int kRowsBefore = 20, kFirstOfWhole = 63, kWhole = 150;

struct TypeRow {
  at::ScalarType type;
  double rounding;  // half of the distance between 1 and the next number
};

const TypeRow& row_of(DType dtype) {
  static constexpr TypeRow rows[] = {// by DType
                                     {at::kFloat, 0x1p-24},
                                     {at::kHalf, 0x1p-11},
                                     {at::kBFloat16, 0x1p-8}};
  return rows[static_cast<size_t>(dtype)];
}

// What rounding may put an output off by, as a share of its largest number: at
// least three times what was found on the simulator (docs/verification.md).  In
// 16 bits only inputs of products and results are rounded; float32 sums are off
// by their lengths, and lse is one whatever the dtype.
double allowance(uint32_t slot, DType dtype) {
  if (slot == SLOT_LSE) dtype = DType::float32;
  return (dtype == DType::float32 ? 64.0 : 6.0) * row_of(dtype).rounding;
}

// The user's options, with sizes that fit the trial's.
attention::Settings settings_of(const Problem& problem) {
  attention::Settings settings = problem.settings;
  settings.scale = 2.0 / std::sqrt(static_cast<double>(problem.head_dim));
  if (settings.softcap > 0.0) settings.softcap = 2.0;
  if (settings.dropout_p > 0.0) settings.dropout_p = 0.25;
  if (settings.window_left >= 0) settings.window_left = 17;
  if (settings.window_right > 0) settings.window_right = 9;
  if (settings.part) {
    // Dropout draws otherwise where columns begin off a strip of 32.
    settings.part->k_offset = settings.part->k_offset % 32 == 0 ? 32 : 13;
    settings.part->q_offset = kRowsBefore;
    settings.part->head_offset = 3;
    settings.part->heads_total = 3 + kHeadsKv * 2;
  }
  return settings;
}

// Pages that the kernel cuts into the same tiles as the user's.
int64_t page_of(const attention::Cache& cache) {
  if (!cache.is_paged()) return kColumns;
  return std::min<int64_t>(cache.page_size & -cache.page_size, 64);
}

class Trial {
 public:
  Trial(const TrialSubject& subject, const Tensor& like)
      : subject_(subject),
        problem_(subject.problem),
        like_(like),
        dtype_(row_of(problem_.dtype).type),
        heads_q_(kHeadsKv *
                 std::min<int64_t>(problem_.heads_q / problem_.heads_kv, 2)) {}

  std::vector<Deviation> run() {
    switch (subject_.direction) {
      case Direction::forward:
        forward();
        break;
      case Direction::backward:
        backward();
        break;
      case Direction::decode:
        decode();
        break;
    }
    return std::move(outputs_);
  }

 private:
  // Of mean 0 and variance 1: they look random, and draw nothing from a
  // generator.
  Tensor numbers(at::IntArrayRef sizes) {
    const int64_t count = c10::multiply_integers(sizes);
    const Tensor waves =
        at::sin(at::arange(count, at::kDouble) * 12.9898 + 78.233 * ++drawn_);
    const Tensor long_tails = waves * 43758.5453;
    return ((long_tails - long_tails.floor()) * 2.0 - 1.0)
        .mul_(std::sqrt(3.0))
        .view(sizes);
  }

  // Aligned as the user's tensors are: that is a part of a kernel's text.
  Tensor put(const Tensor& numbers, at::ScalarType dtype) {
    const Tensor memory = at::empty({numbers.numel() + subject_.vec},
                                    like_.options().dtype(dtype));
    const Tensor there =
        memory.narrow(0, subject_.vec, numbers.numel()).view(numbers.sizes());
    return there.copy_(numbers.to(dtype));
  }
  Tensor draw(at::IntArrayRef sizes) { return put(numbers(sizes), dtype_); }

  // What kernels read element by element has a buffer to itself.
  Tensor beside(const Tensor& numbers, at::ScalarType dtype) {
    return numbers.to(dtype).to(like_.device());
  }

  Tensor mask() {
    if (problem_.mask == MaskKind::none) return {};
    std::array<int64_t, 4> sizes{kBatch, heads_q_, kRows, kColumns};
    for (size_t axis = 0; axis < 4; ++axis) {
      if (problem_.mask_sizes[axis] == 1) sizes[axis] = 1;
    }
    const Tensor drawn = numbers(sizes);
    return problem_.mask == MaskKind::boolean
               ? put(drawn.gt(-1.0), at::kBool)
               : put(drawn.masked_fill(drawn.lt(-1.6), -kInfinity),
                     row_of(problem_.mask_dtype).type);
  }

  // Of a Call or a DecodeStep.
  template <class Arguments>
  void add_options(Arguments& arguments) {
    arguments.settings = settings_of(problem_);
    if (problem_.has_slopes) {
      const Tensor drawn = problem_.has_batch_slopes
                               ? numbers({kBatch, heads_q_})
                               : numbers({heads_q_});
      arguments.slopes = beside(drawn.abs() * 0.1, at::kFloat);
    }
    if (problem_.has_sinks) {
      arguments.sinks = beside(numbers({heads_q_}), at::kFloat);
    }
  }

  Call call() {
    const int64_t batch = problem_.is_packed ? 1 : kBatch;
    Call call;
    call.q = draw({batch, heads_q_, kRows, problem_.head_dim});
    call.k = draw({batch, kHeadsKv, kColumns, problem_.head_dim});
    call.v = draw({batch, kHeadsKv, kColumns, problem_.head_dim_v});
    call.mask = mask();
    add_options(call);
    call.needs_lse = true;
    call.seed = at::full({1}, 20240229, at::kLong);
    if (call.is_partial() && problem_.is_packed) {
      call.starts_q = call.starts_kv =
          beside(at::tensor({0, kFirstOfWhole, kWhole}), at::kInt);
      call.max_len_q = kRows;
      call.max_len_kv = kColumns;
    } else if (problem_.is_packed) {
      call.starts_q = beside(at::tensor({0, kFirstRows, int{kRows}}), at::kInt);
      call.starts_kv =
          beside(at::tensor({0, kFirstColumns, int{kColumns}}), at::kInt);
      call.max_len_q = kFirstRows;
      call.max_len_kv = kFirstColumns;
    }
    return call;
  }

  DecodeStep step() {
    const attention::Cache& cache = problem_.cache;
    // Up to 8 rows of a group have a tile of their own.
    const int64_t rows = problem_.rows_of_group() > 8 ? 9
                         : problem_.len_q == 1        ? 1
                                                      : 2;
    const int64_t page = page_of(cache);
    const int64_t pages = (kColumns + page - 1) / page;
    const int64_t entries = kBatch * pages + (cache.has_rows ? 1 : 0);
    DecodeStep step;
    step.q = draw({kBatch, heads_q_, rows, problem_.head_dim});
    step.k = draw({entries, kHeadsKv, page, problem_.head_dim});
    step.v = draw({entries, kHeadsKv, page, problem_.head_dim_v});
    add_options(step);
    step.lengths = beside(at::tensor({int{kColumns}, 67}), at::kInt);
    if (cache.has_left_pads) {
      step.left_pads = beside(at::tensor({0, 13}), at::kInt);
    }
    if (cache.has_rows) {
      step.cache_rows = beside(at::tensor({2, 0}), at::kInt);
    }
    if (cache.is_paged()) {  // from the last page to the first
      const Tensor order = entries - 1 - at::arange(entries, at::kLong);
      step.table = beside(order.view({kBatch, pages}), at::kInt);
    }
    step.splits = 3;
    return step;
  }

  void compare(uint32_t slot, const Tensor& there, const Tensor& exact) {
    const Tensor got = there.cpu().to(at::kDouble);
    const Tensor wanted = exact.to(at::kDouble);
    // Infinities are right where both have them.
    const Tensor off = (got - wanted).abs().masked_fill_(got.eq(wanted), 0.0);
    const double error = off.nan_to_num(kInfinity).max().item<double>();
    const double largest =
        wanted.nan_to_num(0.0, 0.0, 0.0).abs().max().item<double>();
    outputs_.push_back(
        {slot, error, allowance(slot, problem_.dtype) * largest});
  }

  void forward() {
    const Call given = call();
    const Outputs outputs = run_on_device(given);
    const ExactResults exact = attend_exactly(given, {}, {});
    compare(SLOT_OUT, outputs.out, exact.out);
    compare(SLOT_LSE, outputs.lse, exact.lse);
  }

  void backward() {
    const Call given = call();
    const Outputs outputs = run_on_device(given);
    const Tensor grad_out = draw(outputs.out.sizes());
    Tensor grad_lse;
    if (problem_.has_grad_lse) {
      grad_lse = beside(numbers(outputs.lse.sizes()), at::kFloat);
    }
    torch::jit::Stack stack{
        grad_out, grad_lse.defined() ? c10::IValue(grad_lse) : c10::IValue(),
        outputs.out.to(dtype_), outputs.lse, outputs.stats};
    stack.emplace_back(
        c10::List<bool>({subject_.has_dq, subject_.has_dkdv, subject_.has_dkdv,
                         subject_.has_dbias, false}));
    given.push(stack);
    run_backward_on_device(stack);
    const ExactResults exact = attend_exactly(given, grad_out, grad_lse);
    const auto compare_one = [&](uint32_t slot, Gradient which,
                                 const Tensor& right) {
      if (stack[which].isTensor() && stack[which].toTensor().defined()) {
        compare(slot, stack[which].toTensor(), right);
      }
    };
    compare_one(SLOT_DQ, kQ, exact.dq);
    compare_one(SLOT_DK, kK, exact.dk);
    compare_one(SLOT_DV, kV, exact.dv);
    compare_one(SLOT_DBIAS, kBias, exact.dbias);
  }

  void decode() {
    const DecodeStep given = step();
    const DecodeOutputs outputs = decode_on_device(given);
    const DecodeOutputs exact = decode_exactly(given, outputs);
    compare(SLOT_OUT, std::get<0>(outputs), std::get<0>(exact));
    compare(SLOT_LSE, std::get<1>(outputs), std::get<1>(exact));
  }

  const TrialSubject& subject_;
  const Problem& problem_;
  const Tensor& like_;
  const at::ScalarType dtype_;
  const int64_t heads_q_;
  double drawn_ = 0.0;
  std::vector<Deviation> outputs_;
};

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
  std::vector<Deviation> outputs = Trial(subject, like).run();
  return {aside.kernels(), std::move(outputs)};
}

}  // namespace orchard::torch_ops
