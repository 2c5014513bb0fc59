// csrc/torch/cpu_op.cpp: forward for CPU tensors, for autograd too.  The
// kernels are for Apple GPUs; this keeps a model's meaning where there is none:
// PyTorch's own attention function where it is right (cpu_sdpa.cpp), elsewhere
// the definition (composite.cpp).
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "torch/attention_ops.h"
#include "torch/composite.h"
#include "torch/cpu_op.h"
#include "torch/cpu_sdpa.h"
#include "torch/packed.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::refuse;

Tensor no_numbers(const Call& call) {
  return at::empty({0}, call.q.options().dtype(at::kFloat));
}

CpuOutputs by_definition(const Call& call, int64_t first_batch) {
  auto [weights, lse] = softmax_weights(call);
  const double dropout_p = call.settings.dropout_p;
  if (dropout_p > 0.0) {
    const Tensor kept = keep_mask(call, weights.sym_sizes(), first_batch);
    weights = weights * kept *
              (65536.0 / (65536.0 - attention::drop_below(dropout_p)));
  }
  const Tensor v = call.v.to(weights.scalar_type());
  return {at::matmul(weights, v).to(result_dtype(call)), lse};
}

bool is_rising_from_0(const std::vector<int64_t>& starts) {
  return starts.front() == 0 && std::is_sorted(starts.begin(), starts.end());
}

int64_t longest_of(const std::vector<int64_t>& starts) {
  int64_t most = 0;
  for (size_t i = 1; i < starts.size(); ++i) {
    most = std::max(most, starts[i] - starts[i - 1]);
  }
  return most;
}

void check_starts(const char* operation,
                  const char* side,
                  const std::vector<int64_t>& starts,
                  const c10::SymInt& tokens,
                  const c10::SymInt& longest) {
  const int64_t most = longest_of(starts);
  if (!is_rising_from_0(starts) || tokens < starts.back()) {
    refuse(operation, "expected cu_seqlens_", side, " to rise from 0 to at ",
           "most ", tokens, ", the number of tokens, got ",
           at::IntArrayRef(starts),
           "; it holds where each sequence begins, and at last where the last "
           "ends");
  }
  if (longest < most) {
    refuse(operation, "expected max_seqlen_", side,
           " to be the longest sequence's length ", most, ", got ", longest,
           "; raise it");
  }
}

// Of a part, which need not have all of the tokens.
void check_starts_of_whole(const char* operation,
                           const std::vector<int64_t>& starts) {
  if (is_rising_from_0(starts)) return;
  refuse(operation, "expected cu_seqlens to rise from 0, got ",
         at::IntArrayRef(starts),
         "; it holds where each sequence begins in the whole, and at last "
         "where the last ends");
}

// ... and whose own length may be less than the longest sequence's.
void check_longest_of_part(const char* operation,
                           int64_t most,
                           const c10::SymInt& rows,
                           const c10::SymInt& longest) {
  if (longest >= most || longest >= rows) return;
  refuse(operation, "expected max_seqlen to be the longest sequence's length ",
         most, ", got ", longest, "; raise it");
}

// Within each packed sequence; tokens of none get 0 and -inf.
CpuOutputs attend_packed(const Call& call) {
  const std::vector<int64_t> starts_q = numbers_in(call.starts_q);
  const std::vector<int64_t> starts_kv = numbers_in(call.starts_kv);
  std::vector<Tensor> outs, lses;
  int64_t end = 0;  // of the last sequence, in q
  for (size_t i = 0; i + 1 < starts_q.size(); ++i) {
    const Sequence sequence = sequence_of(call, starts_q, starts_kv, i);
    const CpuOutputs outputs =
        attend_on_cpu(sequence.call, static_cast<int64_t>(i));
    outs.push_back(outputs.out);
    lses.push_back(outputs.lse);
    end = sequence.q.end;
  }
  const c10::SymInt heads = call.q.sym_size(1);
  const c10::SymInt rest = call.q.sym_size(2) - end;
  const auto options = call.q.options().dtype(result_dtype(call));
  // Tied to the tensors even where there is no sequence.
  outs.push_back(
      at::zeros_symint({1, heads, rest, call.v.sym_size(3)}, options) +
      call.q.slice(3, 0, 0).sum());
  if (!call.needs_lse) return {at::cat(outs, 2), {}};
  lses.push_back(at::full_symint({1, heads, rest},
                                 -std::numeric_limits<double>::infinity(),
                                 options.dtype(lse_dtype(call))));
  return {at::cat(outs, 2), at::cat(lses, 2)};
}

}  // namespace

CpuOutputs attend_on_cpu(const Call& given, int64_t first_batch) {
  const Call call = with_repeated_heads(given);
  if (!call.needs_lse) {
    const Tensor out = sdpa_out(call);
    if (out.defined()) return {out, {}};
  }
  return by_definition(call, first_batch);
}

void check_packed_numbers(const char* operation, const Call& call) {
  if (!call.is_packed()) return;
  if (call.is_partial()) {
    const std::vector<int64_t> starts = numbers_in(call.starts_q);
    check_starts_of_whole(operation, starts);
    const int64_t most = longest_of(starts);
    check_longest_of_part(operation, most, call.q.sym_size(2), call.max_len_q);
    check_longest_of_part(operation, most, call.k.sym_size(2), call.max_len_kv);
    return;
  }
  check_starts(operation, "q", numbers_in(call.starts_q), call.q.sym_size(2),
               call.max_len_q);
  check_starts(operation, "k", numbers_in(call.starts_kv), call.k.sym_size(2),
               call.max_len_kv);
}

CpuOutputs run_on_cpu(const Call& call) {
  check_call(kForward, call);
  check_packed_numbers(kForward, call);
  // What was to be cast has been.
  const c10::impl::ExcludeDispatchKeyGuard no_casts(
      c10::DispatchKey::AutocastCPU);
  return call.is_packed() ? attend_packed(call) : attend_on_cpu(call, 0);
}

void forward_cpu(const c10::OperatorHandle& /*op*/, torch::jit::Stack* stack) {
  const Call call = Call::take(kForward, *stack);
  const CpuOutputs outputs = run_on_cpu(call);
  const Tensor lse =
      call.needs_lse ? with_dims_of(call, outputs.lse) : no_numbers(call);
  torch::jit::push(*stack, with_dims_of(call, outputs.out), lse,
                   no_numbers(call));
}

}  // namespace orchard::torch_ops
