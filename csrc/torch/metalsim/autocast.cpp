// csrc/torch/metalsim/autocast.cpp: torch.autocast("metalsim"), by the lists of
// PyTorch's "Autocast Op Reference": which operators take the region's dtype,
// which float32, and which the widest type among their arguments.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

#include <span>
#include <string>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/memory.h"

namespace orchard::metalsim {
namespace {

constexpr c10::DispatchKey kAutocast = c10::DispatchKey::AutocastPrivateUse1;

enum class Policy : uint8_t { region, float32, float32_result, widest };

constexpr const char* kRegion[] = {
    "_convolution",
    "_convolution.deprecated",
    "_scaled_dot_product_flash_attention",
    "_thnn_fused_gru_cell",
    "_thnn_fused_lstm_cell",
    "addbmm",
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "bmm",
    "chain_matmul",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "convolution",
    "einsum",
    "gru_cell",
    "linalg_multi_dot",
    "linalg_vecdot",
    "linear",
    "lstm_cell",
    "matmul",
    "mm",
    "mv",
    "prelu",
    "rnn_relu_cell",
    "rnn_tanh_cell",
    "scaled_dot_product_attention",
};
constexpr const char* kFloat32[] = {
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "acos",
    "asin",
    "binary_cross_entropy_with_logits",
    "cdist",
    "cosh",
    "cosine_embedding_loss",
    "cosine_similarity",
    "dist",
    "erfinv",
    "exp",
    "expm1",
    "frobenius_norm.dim",
    "group_norm",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "log",
    "log10",
    "log1p",
    "log2",
    "logsumexp",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "native_layer_norm",
    "nll_loss",
    "nll_loss2d",
    "norm.Scalar",
    "norm.ScalarOpt_dim",
    "nuclear_norm",
    "nuclear_norm.dim",
    "pdist",
    "poisson_nll_loss",
    "pow.Scalar",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "reciprocal",
    "renorm",
    "rsqrt",
    "sinh",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softplus",
    "tan",
    "triplet_margin_loss",
    "upsample_bicubic2d",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_trilinear3d",
};
// They take a dtype, which is float32 unless the caller names one.
constexpr const char* kFloat32Result[] = {
    "cumprod",
    "cumsum",
    "linalg_matrix_norm",
    "linalg_matrix_norm.str_ord",
    "linalg_vector_norm",
    "log_softmax.int",
    "prod",
    "prod.dim_int",
    "softmax.int",
    "sum",
    "sum.dim_IntList",
};
constexpr const char* kWidest[] = {
    "addcdiv",     "addcmul",   "atan2",        "bilinear",  "cat",
    "cross",       "dot",       "grid_sampler", "index_put", "stack",
    "scatter_add", "tensordot", "vdot",
};

bool is_eligible(const at::Tensor& tensor) {
  return is_metalsim(tensor) && tensor.is_floating_point() &&
         tensor.scalar_type() != at::kDouble;
}

at::Tensor cast(at::ScalarType to, const at::Tensor& tensor) {
  // Parameters are cast once a region, as PyTorch's own cache does it.
  return at::autocast::cached_cast(to, tensor, device_type);
}

template <class Visit>
void visit_tensors(c10::ArrayRef<c10::IValue> arguments, Visit visit) {
  for (const c10::IValue& value : arguments) {
    if (value.isTensor()) visit(value.toTensor());
    if (!value.isTensorList()) continue;
    for (const c10::IValue& element : value.toListRef()) {
      visit(element.toTensor());
    }
  }
}

void cast_all(at::ScalarType to, torch::jit::Stack& stack, size_t first) {
  for (size_t i = first; i < stack.size(); ++i) {
    c10::IValue& value = stack[i];
    if (value.isTensor()) {
      value = cast(to, value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> cast_list;
      for (const c10::IValue& element : value.toListRef()) {
        cast_list.push_back(cast(to, element.toTensor()));
      }
      value = std::move(cast_list);
    }
  }
}

at::ScalarType widest(c10::ArrayRef<c10::IValue> arguments) {
  at::ScalarType found = autocast_dtype();
  visit_tensors(arguments, [&](const at::Tensor& tensor) {
    if (is_eligible(tensor) && tensor.scalar_type() == at::kFloat) {
      found = at::kFloat;
    }
  });
  return found;
}

void ask_for_float32(const c10::FunctionSchema& schema,
                     torch::jit::Stack& stack,
                     size_t first) {
  const auto position = schema.argumentIndexWithName("dtype");
  c10::IValue& dtype = stack[first + static_cast<size_t>(position.value())];
  const c10::IValue& input = stack[first];
  if (dtype.isNone() && input.isTensor() && is_eligible(input.toTensor())) {
    dtype = static_cast<int64_t>(at::kFloat);
  }
}

template <Policy policy>
void call_cast(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard once(kAutocast);
  const size_t count = op.schema().arguments().size();
  const size_t first = stack->size() - count;
  if constexpr (policy == Policy::region) {
    cast_all(autocast_dtype(), *stack, first);
  } else if constexpr (policy == Policy::float32) {
    cast_all(at::kFloat, *stack, first);
  } else if constexpr (policy == Policy::float32_result) {
    ask_for_float32(op.schema(), *stack, first);
  } else {
    cast_all(widest(torch::jit::last(*stack, count)), *stack, first);
  }
  op.callBoxed(stack);
}

template <Policy policy>
void add(torch::Library& m, std::span<const char* const> names) {
  for (const char* name : names) {
    const std::string full = std::string("aten::") + name;
    const size_t dot = full.find('.');
    const c10::OperatorName known(full.substr(0, dot),
                                  dot == full.npos ? "" : full.substr(dot + 1));
    // Not every PyTorch has all of them.
    if (!c10::Dispatcher::singleton().findSchema(known).has_value()) continue;
    m.impl(full.c_str(),
           torch::CppFunction::makeFromBoxedFunction<&call_cast<policy>>());
  }
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  add<Policy::region>(m, kRegion);
  add<Policy::float32>(m, kFloat32);
  add<Policy::float32_result>(m, kFloat32Result);
  add<Policy::widest>(m, kWidest);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  if (!c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(
          kAutocast)) {
    m.fallback(torch::CppFunction::makeFallthrough());
  }
}

}  // namespace
}  // namespace orchard::metalsim
