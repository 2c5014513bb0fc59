// csrc/torch/metalsim/layers.cpp: layers that PyTorch sends down another path
// on a device than on the CPU, so that the fallback alone would not serve them.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <utility>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/host_views.h"
#include "torch/metalsim/kernels.h"

namespace orchard::metalsim {
namespace {

using Ints = c10::IntArrayRef;

// The CPU's own native_dropout would draw from the CPU's default generator.
std::tuple<at::Tensor, at::Tensor> native_dropout(const at::Tensor& input,
                                                  double p,
                                                  optional<bool> train) {
  const auto bools = input.options().dtype(at::kBool);
  if (input.numel() == 0 || (train.has_value() && !*train)) {
    return {input.clone(), at::ones_like(input, bools)};
  }
  const double kept = 1.0 - p;
  at::Tensor mask = at::empty_like(input, bools).bernoulli_(kept);
  at::Tensor out = input.mul(mask).mul_(kept == 0.0 ? 0.0 : 1.0 / kept);
  return {std::move(out), std::move(mask)};
}

at::Tensor open_if_defined(HostViews& views, const at::Tensor& tensor) {
  return tensor.defined() ? views.open(tensor) : tensor;
}

// PyTorch chooses a convolution by device and asks unknown ones for these two.
at::Tensor convolution(const at::Tensor& input,
                       const at::Tensor& weight,
                       const optional<at::Tensor>& bias,
                       Ints stride,
                       Ints padding,
                       Ints dilation,
                       bool is_transposed,
                       Ints output_padding,
                       int64_t groups) {
  HostViews views;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const at::Tensor host_bias =
      open_if_defined(views, bias.has_value() ? *bias : at::Tensor());
  return views.adopt(at::convolution(views.open(input), views.open(weight),
                                     host_bias, stride, padding, dilation,
                                     is_transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad,
    const at::Tensor& input,
    const at::Tensor& weight,
    Ints stride,
    Ints padding,
    Ints dilation,
    bool is_transposed,
    Ints output_padding,
    int64_t groups,
    std::array<bool, 3> output_mask) {
  HostViews views;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const int64_t channels = grad.size(1);
  const auto [dinput, dweight, dbias] = at::convolution_backward(
      views.open(grad), views.open(input), views.open(weight), Ints(channels),
      stride, padding, dilation, is_transposed, output_padding, groups,
      output_mask);
  return {views.adopt(dinput), views.adopt(dweight), views.adopt(dbias)};
}

}  // namespace

void register_layers(torch::Library& m) {
  m.impl("native_dropout", &native_dropout);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace orchard::metalsim
