// csrc/torch/composite.cpp: see composite.h.
#include "torch/composite.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>
#include <utility>

#include "torch/attention_ops.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// How far each query's position is ahead of each key's.
Tensor distance_of(const Call& call) {
  const c10::SymInt len_q = call.q.sym_size(2), len_kv = call.k.sym_size(2);
  const auto whole = call.q.options().dtype(at::kLong);
  const auto steps = [&](const c10::SymInt& length) {
    return at::arange(at::Scalar(length), whole);
  };
  Tensor rows = steps(len_q).unsqueeze(1);
  if (call.settings.is_bottom_right) rows = rows + at::Scalar(len_kv - len_q);
  if (call.is_partial()) {
    rows = rows + (call.settings.part->q_offset - call.settings.part->k_offset);
  }
  return rows - steps(len_kv);
}

// The scores with all that is added, and True where they count.
std::pair<Tensor, Tensor> scores_of(const Call& call) {
  const attention::Settings& settings = call.settings;
  const bool is_double =
      call.q.scalar_type() == at::kDouble ||
      (call.mask.defined() && call.mask.scalar_type() == at::kDouble);
  const auto compute = is_double ? at::kDouble : at::kFloat;
  Tensor scores =
      at::matmul(call.q.to(compute), call.k.to(compute).transpose(-1, -2)) *
      settings.scale;
  if (settings.softcap != 0.0) {
    scores = settings.softcap * at::tanh(scores / settings.softcap);
  }
  const Tensor distance = distance_of(call);
  if (call.slopes.defined()) {
    scores = scores - call.slopes.unsqueeze(-1).unsqueeze(-1) * distance.abs();
  }
  Tensor keep = at::ones_like(scores, scores.options().dtype(at::kBool));
  if (settings.window_left >= 0) {
    keep = keep & (distance <= settings.window_left);
  }
  if (settings.window_right >= 0) {
    keep = keep & (distance >= -settings.window_right);
  }
  if (call.has_bias()) {
    keep = keep & (call.mask != -kInfinity);
    scores = scores + call.mask.to(compute);
  } else if (call.mask.defined()) {
    keep = keep & call.mask;
  }
  return {scores, keep};
}

// torch.logsumexp(scores, -1), with a gradient that is a softmax.  PyTorch's
// own takes it as exp(score - lse), which is off by the number of keys where
// all scores are so low that lse rounds to them.
Tensor log_sum_exp(const Tensor& scores) {
  if (scores.sym_size(-1) == 0) return at::logsumexp(scores, {-1});
  Tensor top = scores.detach().amax(-1, /*keepdim=*/true);
  top = top.masked_fill(top == kInfinity, 0.0);
  return at::exp(scores - top).sum(-1).log() + top.squeeze(-1);
}

// For the drop-in of flash_attn, which returns them on demand.
void softmax_weights_op(const c10::OperatorHandle& /*op*/,
                        torch::jit::Stack* stack) {
  const Call call = with_repeated_heads(Call::take(kForward, *stack));
  torch::jit::push(*stack, softmax_weights(call).weights);
}

}  // namespace

Call with_repeated_heads(Call call) {
  const c10::SymInt heads_q = call.q.sym_size(1), heads_kv = call.k.sym_size(1);
  if (heads_q == heads_kv) return call;
  call.k = call.k.repeat_interleave_symint(heads_q / heads_kv, 1);
  call.v = call.v.repeat_interleave_symint(heads_q / heads_kv, 1);
  return call;
}

Weights softmax_weights(const Call& call) {
  auto [scores, keep] = scores_of(call);
  if (call.sinks.defined()) {  // one more key, whose value is 0
    const Tensor sinks =
        call.sinks.to(scores.scalar_type())
            .view({1, -1, 1, 1})
            .expand_symint({scores.sym_size(0), scores.sym_size(1),
                            scores.sym_size(2), 1});
    scores = at::cat({scores, sinks}, -1);
    keep = at::cat({keep, sinks != -kInfinity}, -1);
  }
  // A row without a key gets scores that softmax can take, and zeros after it,
  // so that neither its output nor its gradients ever see a NaN.
  const Tensor is_dead = keep.any(-1, /*keepdim=*/true).logical_not();
  scores = scores.masked_fill(keep.logical_not(), -kInfinity)
               .masked_fill(is_dead, 0.0);
  const Tensor weights = at::softmax(scores, -1).masked_fill(is_dead, 0.0);
  const Tensor lse =
      log_sum_exp(scores).masked_fill(is_dead.squeeze(-1), -kInfinity);
  return {weights.slice_symint(-1, 0, call.k.sym_size(2)),
          lse.to(lse_dtype(call))};
}

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def("softmax_weights(" ORCHARD_CALL_SCHEMA ") -> Tensor");
}

TORCH_LIBRARY_IMPL(orchard_ops, CompositeImplicitAutograd, m) {
  m.impl("softmax_weights",
         torch::CppFunction::makeFromBoxedFunction<&softmax_weights_op>());
}

}  // namespace orchard::torch_ops
