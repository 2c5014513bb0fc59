// tests/metal/runtime/pytorch/attention.cpp: PyTorch's own attention on mps.
//
// Before 2.5 PyTorch asks a table of kernels for it that has a place for MPS in
// builds for macOS alone.  There, too, the plain operators then do the work.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>

#include "torch/metalsim/compat.h"

#if !ORCHARD_TORCH_AT_LEAST(2, 5)

namespace standin {
namespace {

using orchard::metalsim::optional;

at::Tensor attend(const at::Tensor& q,
                  const at::Tensor& k,
                  const at::Tensor& v,
                  const optional<at::Tensor>& given,
                  double dropout,
                  bool is_causal,
                  optional<double> scale) {
  TORCH_CHECK(q.dtype() == k.dtype() && q.dtype() == v.dtype(),
              "Expected query, key, and value to have the same dtype, but got ",
              "query.dtype: ", q.dtype(), " key.dtype: ", k.dtype(),
              " and value.dtype: ", v.dtype(), " instead.");
  TORCH_CHECK(q.dim() >= 2 && k.dim() >= 2 && v.dim() >= 2,
              "Expected query, key, and value to all be  at least 2 "
              "dimensional, but got query.dim: ",
              q.dim(), ", key.dim: ", k.dim(), " and value.dim: ", v.dim(),
              " instead.");
  optional<at::Tensor> mask = given;
  if (given.has_value() && given->scalar_type() == at::kBool) {
    const double hidden = -std::numeric_limits<double>::infinity();
    mask = at::zeros(given->sizes(), q.options())
               .masked_fill(given->logical_not(), hidden);
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      q, k, v, mask, dropout, is_causal, {}, scale));
}

TORCH_LIBRARY_IMPL(aten, MPS, m) {
  m.impl("scaled_dot_product_attention", &attend);
}

// Made of operators that have derivatives, so that autograd sees those.
TORCH_LIBRARY_IMPL(aten, AutogradMPS, m) {
  m.impl("scaled_dot_product_attention", &attend);
}

}  // namespace
}  // namespace standin

#endif
