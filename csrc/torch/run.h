// csrc/torch/run.h: the one way from a plan to the device: launched, counted,
// logged, and recorded if somebody records.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/plan.h"

namespace orchard::torch_ops {

enum class Direction : uint8_t { forward, backward, decode };

// `like` is a tensor of the device; `copies` were made for the call.
void run(device::Device& device,
         Direction direction,
         const at::Tensor& like,
         const attention::Problem& problem,
         const attention::Plan& plan,
         int64_t copies);

}  // namespace orchard::torch_ops
