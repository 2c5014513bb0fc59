// csrc/torch/tuned.h: what `orchard-ops tune` chose on this GPU
// (attention/choices.h), in this process and in the user's cache.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <utility>
#include <vector>

#include "torch/bridge.h"

namespace orchard::torch_ops {

// std::optional from PyTorch 2.4 on, before that PyTorch's own.
using OptionalText =
    decltype(std::declval<c10::IValue&>().toOptional<std::string>());

// device_of(), with what is kept for it loaded the first time.  A file that is
// none of this user's, or not whole, or names a tile that no kernel can run is
// left alone, with one warning.
device::Device& tuned_device_of(const char* operation,
                                const at::Tensor& tensor);

// For orchard_ops/_tune.  `like` is a tensor of the device, and `choices` lines
// of attention/choices.h.

// What is kept for the device, "" if nothing is.
std::string kept_choices(const at::Tensor& like);
// Keeps them, whole or not at all, and uses them from now on; "" forgets.
void keep_choices(const at::Tensor& like, std::string choices);
// Uses them in launches of this thread alone; none ends that.
void try_choices(const at::Tensor& like, OptionalText choices);
// The tile that the next launch of a kernel has: rows, columns, simdgroups and
// slices.
std::vector<int64_t> chosen_tile(const at::Tensor& like,
                                 std::string kernel,
                                 std::string dtype,
                                 int64_t head_dim);
// The bytes of scratch that the next backward may take; 0: it recomputes.
int64_t chosen_scratch(const at::Tensor& like,
                       std::string dtype,
                       int64_t head_dim);
// Seconds that the GPU has spent on our launches, as far as it is known; 0
// where there is no GPU.
double gpu_seconds(const at::Tensor& like);
// A, B or C (docs/kernels.md).
std::string gpu_class(const at::Tensor& like);

}  // namespace orchard::torch_ops
