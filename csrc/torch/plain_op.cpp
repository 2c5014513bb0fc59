// csrc/torch/plain_op.cpp: the call that asks for nothing special, in few
// steps. Bringing seventeen arguments from Python into the dispatcher takes
// longer than all of forward's work on the host, so the common call has an
// operator of six.
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
using torch::jit::Stack;

enum class Server : uint8_t { none, kernels, sdpa };

// Nothing but a shape to look at, which sizes() of other layouts may refuse.
bool is_plain(const Tensor& tensor) {
  return tensor.layout() == at::kStrided && !tensor.is_nested() &&
         tensor.dim() == 4;
}

// A part of what PyTorch's function serves on the CPU: where it is sure to mean
// the same (orchard_ops/_composite.py knows all of it).
bool is_sure_for_sdpa(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto dtype = q.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kDouble) {
    return false;
  }
  const auto size = [&](int64_t axis) { return k.size(axis) == v.size(axis); };
  return k.device() == q.device() && v.device() == q.device() &&
         k.scalar_type() == dtype && v.scalar_type() == dtype &&
         q.size(0) == k.size(0) && q.size(1) == k.size(1) &&
         q.size(3) == k.size(3) && size(0) && size(1) && size(2) &&
         std::max(q.size(3), v.size(3)) <= attention::kMaxHeadDim &&
         q.numel() != 0 && k.numel() != 0 && v.numel() != 0;
}

Server server_of(const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 bool is_grouping_allowed) {
  if (!is_plain(q) || !is_plain(k) || !is_plain(v)) return Server::none;
  if (!is_grouping_allowed && q.size(1) != k.size(1)) return Server::none;
  switch (q.device().type()) {
    case at::DeviceType::CPU:
      return is_sure_for_sdpa(q, k, v) ? Server::sdpa : Server::none;
    case at::DeviceType::MPS:
    case at::DeviceType::PrivateUse1:
    case at::DeviceType::Meta:
      return Server::kernels;
    default:
      return Server::none;
  }
}

Tensor forward_out(Call call, bool is_causal) {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("orchard_ops::forward",
                                                     "");
  if (is_causal) call.settings.window_right = 0;
  Stack stack;
  stack.reserve(Call::kArguments);
  call.push(stack);
  op.callBoxed(&stack);
  return std::move(stack.front()).toTensor();
}

// (q, k, v, scale, is_causal, enable_gqa): out, or undefined where only the
// long way can say what the call means or what is wrong with it.
void plain(const c10::OperatorHandle& /*op*/, Stack* stack) {
  constexpr size_t kArguments = 6;
  const auto arguments = torch::jit::last(*stack, kArguments);
  Call call;
  call.q = arguments[0].toTensor();
  call.k = arguments[1].toTensor();
  call.v = arguments[2].toTensor();
  const auto scale = arguments[3].toOptional<double>();
  const bool is_causal = arguments[4].toBool();
  const Server server =
      server_of(call.q, call.k, call.v, arguments[5].toBool());
  torch::jit::drop(*stack, kArguments);
  Tensor out;
  if (server == Server::kernels) {
    // A head_dim of 0 is refused later, by its own name.
    const auto head_dim =
        static_cast<double>(std::max<int64_t>(call.q.size(3), 1));
    call.settings.scale = scale.value_or(1.0 / std::sqrt(head_dim));
    out = forward_out(std::move(call), is_causal);
  } else if (server == Server::sdpa && std::isfinite(scale.value_or(1.0))) {
    out = at::scaled_dot_product_attention(call.q, call.k, call.v, {}, 0.0,
                                           is_causal, scale);
  }
  torch::jit::push(*stack, out);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def(
      "plain(Tensor q, Tensor k, Tensor v, float? scale, bool is_causal, bool "
      "enable_gqa) -> Tensor");
}

// Made of other operators, for gradients and vmap too.
TORCH_LIBRARY_IMPL(orchard_ops, CompositeImplicitAutograd, m) {
  m.impl("plain", torch::CppFunction::makeFromBoxedFunction<&plain>());
}
TORCH_LIBRARY_IMPL(orchard_ops, FuncTorchBatched, m) {
  m.impl("plain", torch::CppFunction::makeFromBoxedFunction<&plain>());
}

}  // namespace orchard::torch_ops
