// csrc/torch/cpu_sdpa.cpp: where PyTorch's own function means what ours says.
//
// It is fast and does not keep the scores, so it serves wherever it is known to
// be right, on every supported PyTorch.  Elsewhere the definition does:
//
// - a mask whose last size is 1 lets it read other memory (2.4);
// - causal with a scale of 0 or less gives NaN: -inf is put in before the
//   scale;
// - a row without a key gives NaN (before 2.5);
// - backward gets a row's maximum and the log of its sum as one number, in
//   which a maximum far from 0 rounds the sum away: where all biases of a row
//   are very low or one is very high each weight comes out as 1, and a scale
//   above 1 makes scores of hundreds common;
// - a float mask's gradient, derivatives of a forward mode, and second ones are
//   not there.
//
// In 16 bits it would round the sums of backward after each block of queries or
// keys, an error that grows with length (before 2.3 also what should cancel;
// and there float16 is not served at all): it gets float32.
#include "torch/cpu_sdpa.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "torch/attention_ops.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using torch::autograd::variable_list;

// How far from 0 a row's largest bias may lie: to round there costs a float32
// sum of weights 2**-17 of itself, less than the tolerance of the tests.
constexpr float kMostBias = 128.0F;

// Whether a predicate of (row, columns, step) holds for each row.
template <class T, class Holds>
bool holds_for_rows(const Tensor& mask, const Holds& holds) {
  // Untyped: clang spells the typed one's name anew from 18 on, and PyTorch 2.2
  // to 2.4 for macOS export the old name.
  const auto* const first = static_cast<const T*>(mask.const_data_ptr());
  // Rows that are one row in memory are looked at once.
  const auto count = [&](int64_t axis) {
    return mask.stride(axis) == 0 ? std::min<int64_t>(mask.size(axis), 1)
                                  : mask.size(axis);
  };
  const int64_t columns = count(3), step = mask.stride(3);
  for (int64_t b = 0; b < count(0); ++b) {
    for (int64_t h = 0; h < count(1); ++h) {
      const T* row = first + b * mask.stride(0) + h * mask.stride(1);
      for (int64_t r = 0; r < count(2); ++r, row += mask.stride(2)) {
        if (!holds(row, columns, step)) return false;
      }
    }
  }
  return true;
}

bool has_true(const bool* row, int64_t columns, int64_t step) {
  for (int64_t i = 0; i < columns; ++i) {
    if (row[i * step]) return true;
  }
  return false;
}

// Whether the largest number lies within the bound; NaN does not.  Without a
// branch in the loop, so that compilers take several numbers at once.
template <class T>
bool has_top_within(const T* row, int64_t columns, int64_t step, float bound) {
  unsigned is_reached = 0, is_passed = 0;
  const auto see = [&](T number) {
    const auto bias = static_cast<
        std::conditional_t<std::is_same_v<T, double>, double, float>>(number);
    is_reached |= static_cast<unsigned>(bias >= -bound);
    is_passed |= static_cast<unsigned>(!(bias <= bound));
  };
  if (step == 1) {
    for (int64_t i = 0; i < columns; ++i) see(row[i]);
  } else {
    for (int64_t i = 0; i < columns; ++i) see(row[i * step]);
  }
  return is_reached != 0 && is_passed == 0;
}

template <class T>
bool tops_lie_within(const Tensor& mask, float bound) {
  return holds_for_rows<T>(mask,
                           [bound](const T* row, int64_t n, int64_t step) {
                             return has_top_within(row, n, step, bound);
                           });
}

// Whether each row of a bool mask lets a key through, or the largest bias of
// each row of a float one lies near 0.  False also where nobody can look.
bool has_moderate_rows(const Tensor& mask) {
  if (!is_readable(mask)) return false;
  switch (mask.scalar_type()) {
    case at::kBool:
      return holds_for_rows<bool>(mask, has_true);
    case at::kFloat:
      return tops_lie_within<float>(mask, kMostBias);
    case at::kDouble:
      return tops_lie_within<double>(mask, kMostBias);
    case at::kBFloat16:
      return tops_lie_within<at::BFloat16>(mask, kMostBias);
    case at::kHalf:
      return tops_lie_within<at::Half>(mask, kMostBias);
    default:
      return false;
  }
}

bool is_mask_right(const Call& call) {
  const Tensor& mask = call.mask;
  if (!mask.defined()) return true;
  if (mask.requires_grad()) return false;
  if (mask.scalar_type() != at::kBool &&
      mask.scalar_type() != call.q.scalar_type()) {
    return false;
  }
  return mask.sym_size(3) == call.k.sym_size(2) && has_moderate_rows(mask);
}

// Transforms and forward mode want derivatives that it does not have.
bool is_transformed(const Call& call) {
  const DispatchKeySet wrappers{DispatchKey::FuncTorchBatched,
                                DispatchKey::FuncTorchGradWrapper};
  for (const Tensor* tensor : {&call.q, &call.k, &call.v, &call.mask}) {
    if (!tensor->defined()) continue;
    if (tensor->key_set().has_any(wrappers) || tensor->_fw_grad(0).defined()) {
      return true;
    }
  }
  return false;
}

bool is_right(const Call& call) {
  const attention::Settings& settings = call.settings;
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  if (settings.softcap != 0.0 || settings.dropout_p != 0.0 ||
      settings.window_left >= 0 || settings.window_right > 0 ||
      call.slopes.defined() || call.sinks.defined() || call.is_partial()) {
    return false;
  }
  const bool is_causal = settings.window_right == 0;
  if (is_causal && call.mask.defined()) return false;
  if (is_causal && settings.is_bottom_right && q.sym_size(2) != k.sym_size(2)) {
    return false;
  }
  // The scale is used as a float32, in which a smaller one may be 0.
  if (settings.scale < std::numeric_limits<float>::min() ||
      settings.scale > 1.0) {
    return false;
  }
  return q.sym_size(3) == v.sym_size(3) && q.sym_numel() != 0 &&
         k.sym_numel() != 0 && !is_transformed(call) && is_mask_right(call);
}

// As PyTorch's function gets it.
Tensor widened(const Tensor& tensor) {
  return at::isReducedFloatingType(tensor.scalar_type()) ? tensor.to(at::kFloat)
                                                         : tensor;
}

// The identity, whose derivative is an error.
struct OnlyOnce : torch::autograd::Function<OnlyOnce> {
  static Tensor forward(torch::autograd::AutogradContext* /*context*/,
                        const Tensor& gradient) {
    return gradient.view_as(gradient);
  }
  static variable_list backward(torch::autograd::AutogradContext* /*context*/,
                                const variable_list& /*grads*/) {
    refuse_second_derivatives();
  }
};

// Ties first derivatives that second ones may be wanted of to the error.
struct Guard : torch::autograd::FunctionPostHook {
  variable_list operator()(const variable_list& gradients,
                           const variable_list& /*of_outputs*/) override {
    if (!at::GradMode::is_enabled()) return gradients;
    variable_list tied;
    for (const Tensor& gradient : gradients) {
      tied.push_back(gradient.defined() ? OnlyOnce::apply(gradient) : gradient);
    }
    return tied;
  }
};

// Makes a second derivative an error of ours, not PyTorch's raw one.
void guard_second_derivatives(const Tensor& out) {
  if (!out.requires_grad() || !is_readable(out)) return;
  const auto node = out.grad_fn();
  if (node && node->name().rfind("ScaledDotProductFlash", 0) == 0) {
    node->add_post_hook(std::make_unique<Guard>());
  }
}

}  // namespace

bool is_readable(const Tensor& tensor) {
  const DispatchKeySet wrappers{
      DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchGradWrapper,
      DispatchKey::Functionalize, DispatchKey::Python};
  return !tensor.key_set().has_any(wrappers) && tensor.device().is_cpu() &&
         tensor.has_storage() && !tensor.is_neg();
}

Tensor sdpa_out(const Call& call) {
  if (!is_right(call)) return {};
  const OptionalTensor mask = call.mask.defined()
                                  ? OptionalTensor(widened(call.mask))
                                  : OptionalTensor();
  const bool is_causal = call.settings.window_right == 0;
  const Tensor out = at::scaled_dot_product_attention(
      widened(call.q), widened(call.k), widened(call.v), mask, 0.0, is_causal,
      call.settings.scale);
  guard_second_derivatives(out);
  return out.to(call.q.scalar_type());
}

}  // namespace orchard::torch_ops
