// csrc/torch/attention_ops.cpp: forward and backward on a device, and their
// results' shapes alone (Meta).
#include "torch/attention_ops.h"

#include <ATen/ATen.h>

#include <atomic>
#include <limits>

#include "attention/plan.h"
#include "torch/bridge.h"
#include "torch/call.h"
#include "torch/inputs.h"
#include "torch/run.h"
#include "torch/tuned.h"
#include "torch/verify/verify.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Problem;
using torch::jit::Stack;

// Backwards run in autograd's threads: one number for all of them.
std::atomic<int64_t> scratch_bytes{-1};

Outputs empty_outputs(const Call& call) {
  const Tensor& q = call.q;
  const c10::SymInt batch = q.sym_size(0), heads = q.sym_size(1),
                    rows = q.sym_size(2);
  const auto numbers = q.options().dtype(at::kFloat);
  // No kernel visits rows that belong to no sequence.
  const bool is_zeroed = call.is_packed();
  Outputs outputs;
  outputs.out = empty_like_layout(q, {batch, heads, rows, call.v.sym_size(3)},
                                  result_dtype(call), is_zeroed);
  outputs.lse =
      at::empty_symint({batch, heads, rows}, numbers.dtype(lse_dtype(call)));
  outputs.stats = at::empty_symint({batch, heads, rows, 2}, numbers);
  if (is_zeroed) {
    outputs.lse.fill_(-std::numeric_limits<float>::infinity());
    outputs.stats.zero_();
  }
  return outputs;
}

// What no key gives: zeros, and the sinks' share of the sum.
void fill_empty(const Call& call, Outputs& outputs) {
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  outputs.out.zero_();
  outputs.stats.zero_();
  if (!call.sinks.defined()) {
    outputs.lse.fill_(kNothing);
    return;
  }
  outputs.lse.copy_(call.sinks.view({1, -1, 1}).expand(outputs.lse.sizes()));
  if (call.is_packed()) {  // Tokens of no sequence see no sink either.
    const Tensor tokens =
        at::arange(outputs.lse.size(2), call.starts_q.options());
    outputs.lse.masked_fill_(tokens.ge(call.starts_q.select(0, -1)), kNothing);
  }
}

void bind(const char* operation,
          const Call& call,
          Inputs& inputs,
          attention::Tensors& views) {
  views.q = inputs.layout(call.q);
  views.k = inputs.layout(call.k);
  views.v = inputs.layout(call.v);
  if (call.mask.defined()) views.mask = layout_of(operation, call.mask);
  views.slopes = inputs.numbers(call.slopes);
  views.sinks = inputs.numbers(call.sinks);
  views.starts_q = inputs.numbers(call.starts_q);
  views.starts_kv = inputs.numbers(call.starts_kv);
}

using OutputMask = std::array<bool, kGradients>;
using Gradients = std::array<Tensor, kGradients>;

// Everything that backward is given.
struct BackwardCall {
  Tensor grad_out, grad_lse, out, lse, stats;
  Call call;
  OutputMask is_wanted{};
};

BackwardCall take_backward(Stack& stack) {
  constexpr size_t kArguments = kCallOfBackward + Call::kArguments;
  const auto arguments = torch::jit::last(stack, kArguments);
  BackwardCall given;
  given.grad_out = arguments[kGradOut].toTensor();
  if (!arguments[kGradLse].isNone())
    given.grad_lse = arguments[kGradLse].toTensor();
  given.out = arguments[kForwardOut].toTensor();
  given.lse = arguments[kForwardLse].toTensor();
  given.stats = arguments[kForwardStats].toTensor();
  given.call = Call::read(kBackward, arguments, kCallOfBackward);
  const auto wanted = arguments[kOutputMask].toBoolList();
  for (size_t i = 0; i < kGradients; ++i) given.is_wanted[i] = wanted[i];
  given.is_wanted[kBias] = given.is_wanted[kBias] && given.call.has_bias();
  given.is_wanted[kSinks] =
      given.is_wanted[kSinks] && given.call.sinks.defined();
  torch::jit::drop(stack, kArguments);
  return given;
}

void check_grad_out(const BackwardCall& given) {
  const Tensor& q = given.call.q;
  const Tensor& grad_out = given.grad_out;
  bool is_right = grad_out.dim() == 4 &&
                  grad_out.scalar_type() == q.scalar_type() &&
                  grad_out.device() == q.device();
  for (int axis = 0; is_right && axis < 4; ++axis) {
    const Tensor& like = axis == 3 ? given.call.v : q;
    is_right = grad_out.sym_size(axis) == like.sym_size(axis);
  }
  if (is_right) return;
  attention::refuse(kBackward, "expected grad_out to be ",
                    torch_name(q.scalar_type()), " on ", q.device(),
                    " of shape [", q.sym_size(0), ", ", q.sym_size(1), ", ",
                    q.sym_size(2), ", ", given.call.v.sym_size(3), "], got ",
                    torch_name(grad_out.scalar_type()), " on ",
                    grad_out.device(), " of shape ", grad_out.sym_sizes(),
                    "; give it the output's shape, dtype and device");
}

void check_grad_lse(const BackwardCall& given) {
  const Tensor& grad = given.grad_lse;
  const Tensor& lse = given.lse;
  if (!grad.defined() ||
      (grad.device() == lse.device() && grad.scalar_type() == at::kFloat &&
       grad.sym_sizes() == lse.sym_sizes())) {
    return;
  }
  attention::refuse(kBackward, "expected grad_lse to be torch.float32 on ",
                    lse.device(), " of shape ", lse.sym_sizes(),
                    " as lse is, got ", torch_name(grad.scalar_type()), " on ",
                    grad.device(), " of shape ", grad.sym_sizes(),
                    "; cast or slice it");
}

// Whether the forward's own statistics came along, and so its lse; else those
// of more keys may have, and an empty tensor of one dimension.
bool has_stats(const BackwardCall& given) { return given.stats.dim() == 4; }

void check_lse(const BackwardCall& given) {
  const Tensor &q = given.call.q, &lse = given.lse, &out = given.out;
  if (has_stats(given) && !given.call.is_partial()) return;
  if (lse.dim() == 3 && lse.scalar_type() == at::kFloat &&
      lse.device() == q.device() && lse.sym_size(0) == q.sym_size(0) &&
      lse.sym_size(1) == q.sym_size(1) && lse.sym_size(2) == q.sym_size(2) &&
      out.sym_sizes() == given.grad_out.sym_sizes() &&
      out.scalar_type() == q.scalar_type() && out.device() == q.device()) {
    return;
  }
  attention::refuse(kBackward, "expected out like grad_out and lse as ",
                    "torch.float32 of shape [", q.sym_size(0), ", ",
                    q.sym_size(1), ", ", q.sym_size(2), "] on ", q.device(),
                    ", got out ", torch_name(out.scalar_type()), " of shape ",
                    out.sym_sizes(), " and lse ", torch_name(lse.scalar_type()),
                    " of shape ", lse.sym_sizes(), " on ", lse.device(),
                    "; pass what the forward returned, or what it was merged "
                    "into");
}

void check_backward(const BackwardCall& given) {
  check_call(kBackward, given.call);
  check_grad_out(given);
  check_lse(given);
  check_grad_lse(given);
}

// Those that are wanted; dk and dv come together.
Gradients empty_gradients(const BackwardCall& given) {
  const Call& call = given.call;
  const auto make = [&](const Tensor& like) {
    return empty_like_layout(like,
                             {like.sym_size(0), like.sym_size(1),
                              like.sym_size(2), like.sym_size(3)},
                             result_dtype(call), call.is_packed());
  };
  Gradients gradients;
  if (given.is_wanted[kQ]) gradients[kQ] = make(call.q);
  if (given.is_wanted[kK] || given.is_wanted[kV]) {
    gradients[kK] = make(call.k);
    gradients[kV] = make(call.v);
  }
  if (given.is_wanted[kBias]) {
    gradients[kBias] =
        at::empty_symint(call.mask.sym_sizes(), call.mask.options());
  }
  if (given.is_wanted[kSinks]) {
    gradients[kSinks] =
        at::empty_symint(call.sinks.sym_sizes(), call.sinks.options());
  }
  return gradients;
}

// A sink has no value: its gradient is -delta times its weight, over all rows,
// delta being less the gradient of lse as it is for keys.
// One number a head from two a row: plain operators do it.
void write_sink_gradient(const BackwardCall& given,
                         const Tensor& delta,
                         Tensor& gradient) {
  Tensor weight = given.call.sinks.view({1, -1, 1}) - given.lse;
  // Not isneginf, which MPS lacks before PyTorch 2.6.
  const Tensor is_empty =
      given.lse.eq(-std::numeric_limits<double>::infinity());
  weight.exp_().mul_(delta).masked_fill_(is_empty, 0.0);
  gradient.copy_(weight.sum(at::IntArrayRef{0, 2}).neg_());
}

Tensor scratch(const Tensor& like, int64_t bytes) {
  if (bytes == 0) return {};
  return at::empty({bytes}, like.options().dtype(at::kByte));
}

// No score: no gradient but of the sinks, which lse is then made of.
void fill_empty_gradients(const BackwardCall& given, Gradients& gradients) {
  for (Tensor& gradient : gradients) {
    if (gradient.defined()) gradient.zero_();
  }
  if (gradients[kSinks].defined() && given.grad_lse.defined()) {
    write_sink_gradient(given, given.grad_lse.neg(), gradients[kSinks]);
  }
}

// Each row's maximum and inverse total, as the forward would write them; from
// lse alone where out and lse are those of more keys than the call has.
Tensor stats_of(const BackwardCall& given) {
  const Tensor& lse = given.lse;
  if (has_stats(given)) return given.stats;
  // Scores with a bias are kept in base e.
  const double unit = given.call.has_bias() ? 1.0 : LOG2E;
  const Tensor is_empty = lse.eq(-std::numeric_limits<double>::infinity());
  return at::stack({(lse * unit).masked_fill_(is_empty, EMPTY_MAXIMUM),
                    is_empty.logical_not().to(at::kFloat)},
                   -1);
}

Gradients run_backward(const BackwardCall& given) {
  const Call& call = given.call;
  check_backward(given);
  Problem problem = problem_of(kBackward, call);
  problem.has_grad_lse = given.grad_lse.defined();
  Gradients gradients = empty_gradients(given);
  if (call.q.numel() == 0 || call.k.numel() == 0) {
    fill_empty_gradients(given, gradients);
    return gradients;
  }
  const Tensor stats = stats_of(given);
  const auto numbers = stats.options();
  const auto shape = call.q.sizes().slice(0, 3);
  // Rows of no sequence get no delta, and the sinks' sum would read it.
  const Tensor delta =
      call.is_packed() ? at::zeros(shape, numbers) : at::empty(shape, numbers);
  attention::Tensors views;
  Inputs inputs(kBackward);
  bind(kBackward, call, inputs, views);
  views.out = inputs.layout(given.out);
  views.grad_out = inputs.layout(given.grad_out);
  views.stats = inputs.numbers(stats);
  views.grad_lse = inputs.numbers(given.grad_lse);
  if (given.grad_lse.defined()) views.lse = inputs.numbers(given.lse);
  views.delta = buffer_view(kBackward, delta);
  if (gradients[kQ].defined()) views.dq = layout_of(kBackward, gradients[kQ]);
  if (gradients[kK].defined()) {
    views.dk = layout_of(kBackward, gradients[kK]);
    views.dv = layout_of(kBackward, gradients[kV]);
  }
  if (gradients[kBias].defined()) {
    views.dbias = buffer_view(kBackward, gradients[kBias]);
  }
  device::Device& device = tuned_device_of(kBackward, call.q);
  const attention::Spill spill =
      attention::choose_spill(device, problem, views,
                              {gradients[kQ].defined(), gradients[kK].defined(),
                               gradients[kBias].defined()},
                              Aside::scratch_or(scratch_bytes));
  const Tensor spilled = scratch(call.q, spill.spill_bytes);
  const Tensor units = scratch(call.q, spill.units_bytes);
  const Tensor sums = scratch(call.q, spill.sums_bytes);
  if (spilled.defined()) views.spill = buffer_view(kBackward, spilled);
  if (units.defined()) views.units = buffer_view(kBackward, units);
  if (sums.defined()) views.dq_sums = buffer_view(kBackward, sums);
  attention::Plan plan;
  attention::plan_backward(device, problem, views, spill, plan);
  const Tensor walk_sums = scratch(call.q, plan.walk_sums_bytes);
  if (walk_sums.defined()) {
    attention::bind_walk_sums(plan, buffer_view(kBackward, walk_sums));
  }
  run(device, Direction::backward, call.q, problem, plan, inputs.copies());
  if (gradients[kSinks].defined())
    write_sink_gradient(given, delta, gradients[kSinks]);
  return gradients;
}

void push_outputs(Stack& stack, const Call& call, const Outputs& outputs) {
  torch::jit::push(stack, with_dims_of(call, outputs.out),
                   with_dims_of(call, outputs.lse), outputs.stats);
}

void push_gradients(Stack& stack, const Gradients& gradients) {
  for (const Tensor& gradient : gradients) torch::jit::push(stack, gradient);
}

}  // namespace

Outputs run_on_device(const Call& call) {
  check_call(kForward, call);
  const Problem problem = problem_of(kForward, call);
  Outputs outputs = empty_outputs(call);
  if (outputs.out.numel() == 0) return outputs;
  if (call.k.numel() == 0) {
    fill_empty(call, outputs);
    return outputs;
  }
  attention::Tensors views;
  Inputs inputs(kForward);
  bind(kForward, call, inputs, views);
  views.out = layout_of(kForward, outputs.out);
  views.lse = buffer_view(kForward, outputs.lse);
  views.stats = buffer_view(kForward, outputs.stats);
  device::Device& device = tuned_device_of(kForward, call.q);
  attention::Plan plan;
  try {
    attention::plan_forward(device, problem, views, plan);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::unsupported) {
      remember_unusable(device, problem, error);
    }
    throw;
  }
  run(device, Direction::forward, call.q, problem, plan, inputs.copies());
  return outputs;
}

void set_backward_scratch(int64_t bytes) { scratch_bytes = bytes; }

int64_t backward_scratch() { return scratch_bytes; }

void forward_device(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const Call call = Call::take(kForward, *stack);
  push_outputs(*stack, call, run_on_device(call));
}

void forward_meta(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const Call call = Call::take(kForward, *stack);
  check_call(kForward, call);
  push_outputs(*stack, call, empty_outputs(call));
}

void forward_elsewhere(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const Call call = Call::take(kForward, *stack);
  check_call(kForward, call);
  device_of(kForward, call.q);  // there is none: throws
}

void run_backward_on_device(Stack& stack) {
  push_gradients(stack, run_backward(take_backward(stack)));
}

void backward_device(const c10::OperatorHandle& /*op*/, Stack* stack) {
  run_backward_on_device(*stack);
}

void backward_meta(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const BackwardCall given = take_backward(*stack);
  check_backward(given);
  push_gradients(*stack, empty_gradients(given));
}

}  // namespace orchard::torch_ops
