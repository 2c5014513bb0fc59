// csrc/torch/plain_op.cpp: the call that asks for nothing special, in few
// steps. Bringing seventeen arguments from Python into the dispatcher takes
// longer than all of forward's work on the host, so the common call has an
// operator of seven.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "torch/attention_ops.h"
#include "torch/call.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using c10::DispatchKey;
using torch::jit::Stack;

// Whether the kernels take the call as it is, but for what forward checks
// itself.
bool is_for_kernels(const Call& call, bool is_grouping_allowed) {
  for (const Tensor* tensor : {&call.q, &call.k, &call.v}) {
    const bool is_plain = tensor->layout() == at::kStrided &&
                          !tensor->is_nested() && tensor->dim() == 4;
    if (!is_plain) return false;
  }
  if (!is_grouping_allowed && call.q.size(1) != call.k.size(1)) return false;
  switch (call.q.device().type()) {
    case at::DeviceType::MPS:
    case at::DeviceType::PrivateUse1:
    case at::DeviceType::Meta:
      return true;
    default:
      return false;
  }
}

Tensor forward_out(const Call& call) {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("orchard_ops::forward",
                                                     "");
  Stack stack;
  stack.reserve(Call::kArguments);
  call.push(stack);
  op.callBoxed(&stack);
  return std::move(stack.front()).toTensor();
}

// With its missing dimensions in front; undefined for one of too many.
Tensor with_four_dims(Tensor mask) {
  if (mask.dim() > 4) return {};
  while (mask.dim() < 4) mask = mask.unsqueeze(0);
  return mask;
}

// (q, k, v, attn_mask, scale, is_causal, enable_gqa): out, or undefined where
// only the long way can say what the call means or what is wrong with it.
void plain(const c10::OperatorHandle& /*op*/, Stack* stack) {
  constexpr size_t kArguments = 7;
  const auto arguments = torch::jit::last(*stack, kArguments);
  Call call;
  call.q = arguments[0].toTensor();
  call.k = arguments[1].toTensor();
  call.v = arguments[2].toTensor();
  const bool has_mask = !arguments[3].isNone();
  if (has_mask) call.mask = with_four_dims(arguments[3].toTensor());
  const auto scale = arguments[4].toOptional<double>();
  const bool is_causal = arguments[5].toBool();
  const bool is_grouping_allowed = arguments[6].toBool();
  torch::jit::drop(*stack, kArguments);
  Tensor out;
  if (has_mask == call.mask.defined() &&
      is_for_kernels(call, is_grouping_allowed)) {
    // A head_dim of 0 is refused later, by its own name.
    const auto head_dim =
        static_cast<double>(std::max<int64_t>(call.q.size(3), 1));
    call.settings.scale = scale.value_or(1.0 / std::sqrt(head_dim));
    if (is_causal) call.settings.window_right = 0;
    out = forward_out(call);
  }
  torch::jit::push(*stack, out);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def(
      "plain(Tensor q, Tensor k, Tensor v, Tensor? attn_mask, float? scale, "
      "bool is_causal, bool enable_gqa) -> Tensor");
}

// Made of other operators, for gradients and vmap too.
TORCH_LIBRARY_IMPL(orchard_ops, CompositeImplicitAutograd, m) {
  m.impl("plain", torch::CppFunction::makeFromBoxedFunction<&plain>());
}
TORCH_LIBRARY_IMPL(orchard_ops, FuncTorchBatched, m) {
  m.impl("plain", torch::CppFunction::makeFromBoxedFunction<&plain>());
}

}  // namespace orchard::torch_ops
