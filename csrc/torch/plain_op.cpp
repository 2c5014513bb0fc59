// csrc/torch/plain_op.cpp: the call that asks for nothing special, in few
// steps. Bringing seventeen arguments from Python into the dispatcher takes
// longer than all of forward's work on the host, so the common call has an
// operator of seven.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "torch/attention_ops.h"
#include "torch/call.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using c10::DispatchKey;
using torch::jit::Stack;

enum class Server : uint8_t { none, kernels, sdpa };

// Memory that can be looked at: no wrapper of a transform, no lazy sign.
bool is_readable(const Tensor& tensor) {
  const c10::DispatchKeySet wrappers{
      DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchGradWrapper,
      DispatchKey::Functionalize, DispatchKey::Python};
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided &&
         tensor.has_storage() && !tensor.is_neg() &&
         !tensor.key_set().has_any(wrappers);
}

template <class T, class Attends>
bool each_row_has_one(const Tensor& mask, const Attends& attends) {
  // Untyped: clang spells the typed one's name anew from 18 on, and PyTorch 2.2
  // to 2.4 for macOS export the old name.
  const auto* const first = static_cast<const T*>(mask.const_data_ptr());
  // Rows that are one row in memory are looked at once.
  const auto count = [&](int64_t axis) {
    return mask.stride(axis) == 0 ? 1 : mask.size(axis);
  };
  const int64_t columns = count(3), step = mask.stride(3);
  const auto has_one = [&](const T* row) {
    for (int64_t i = 0; i < columns; ++i) {
      if (attends(row[i * step])) return true;
    }
    return false;
  };
  for (int64_t b = 0; b < count(0); ++b) {
    for (int64_t h = 0; h < count(1); ++h) {
      const T* row = first + b * mask.stride(0) + h * mask.stride(1);
      for (int64_t r = 0; r < count(2); ++r, row += mask.stride(2)) {
        if (!has_one(row)) return false;
      }
    }
  }
  return true;
}

// Whether each row of a CPU mask of four dimensions lets a key through; the
// others are NaN in PyTorch's function, in some versions.
bool each_row_attends(const Tensor& mask) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  const auto is_added = [](auto bias) {
    return static_cast<double>(bias) != kNever;
  };
  switch (mask.scalar_type()) {
    case at::kBool:
      return each_row_has_one<bool>(mask, [](bool is_set) { return is_set; });
    case at::kFloat:
      return each_row_has_one<float>(mask, is_added);
    case at::kDouble:
      return each_row_has_one<double>(mask, is_added);
    case at::kBFloat16:
      return each_row_has_one<at::BFloat16>(mask, is_added);
    default:
      return false;
  }
}

bool is_sure_mask(const Tensor& mask, const Call& call, bool is_causal) {
  if (!mask.defined()) return true;
  const bool is_known = mask.scalar_type() == at::kBool ||
                        mask.scalar_type() == call.q.scalar_type();
  if (is_causal || !is_known || !is_readable(mask)) return false;
  const std::array<int64_t, 4> full{call.q.size(0), call.q.size(1),
                                    call.q.size(2), call.k.size(2)};
  for (size_t axis = 0; axis < 4; ++axis) {
    const int64_t size = mask.size(static_cast<int64_t>(axis));
    if (size != 1 && size != full[axis]) return false;
  }
  return each_row_attends(mask);
}

// A part of what PyTorch's function serves on the CPU: where it is sure to mean
// the same (orchard_ops/_composite.py knows all of it).
bool is_sure_for_sdpa(const Call& call, bool is_causal) {
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  const auto dtype = q.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kDouble) {
    return false;
  }
  const auto agrees = [&](int64_t axis) {
    return k.size(axis) == v.size(axis);
  };
  return k.device() == q.device() && v.device() == q.device() &&
         k.scalar_type() == dtype && v.scalar_type() == dtype &&
         q.size(0) == k.size(0) && q.size(1) == k.size(1) &&
         q.size(3) == k.size(3) && agrees(0) && agrees(1) && agrees(2) &&
         std::max(q.size(3), v.size(3)) <= attention::kMaxHeadDim &&
         q.numel() != 0 && k.numel() != 0 && v.numel() != 0 &&
         is_sure_mask(call.mask, call, is_causal);
}

Server server_of(const Call& call, bool is_causal, bool is_grouping_allowed) {
  for (const Tensor* tensor : {&call.q, &call.k, &call.v}) {
    const bool is_plain = tensor->layout() == at::kStrided &&
                          !tensor->is_nested() && tensor->dim() == 4;
    if (!is_plain) return Server::none;
  }
  if (!is_grouping_allowed && call.q.size(1) != call.k.size(1)) {
    return Server::none;
  }
  switch (call.q.device().type()) {
    case at::DeviceType::CPU:
      return is_sure_for_sdpa(call, is_causal) ? Server::sdpa : Server::none;
    case at::DeviceType::MPS:
    case at::DeviceType::PrivateUse1:
    case at::DeviceType::Meta:
      return Server::kernels;
    default:
      return Server::none;
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
  const Server server = has_mask && !call.mask.defined()
                            ? Server::none
                            : server_of(call, is_causal, is_grouping_allowed);
  Tensor out;
  if (server == Server::kernels) {
    // A head_dim of 0 is refused later, by its own name.
    const auto head_dim =
        static_cast<double>(std::max<int64_t>(call.q.size(3), 1));
    call.settings.scale = scale.value_or(1.0 / std::sqrt(head_dim));
    if (is_causal) call.settings.window_right = 0;
    out = forward_out(call);
  } else if (server == Server::sdpa && std::isfinite(scale.value_or(1.0))) {
    OptionalTensor mask;
    if (has_mask) mask = call.mask;
    out = at::scaled_dot_product_attention(call.q, call.k, call.v, mask, 0.0,
                                           is_causal, scale);
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
