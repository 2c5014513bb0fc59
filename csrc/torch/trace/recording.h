// csrc/torch/trace/recording.h: launches as folders of files, so that they can
// be run again on another machine (orchard_ops.record, `orchard-ops replay`).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "attention/plan.h"

namespace orchard::torch_ops {

// Records from now on into an existing folder of the caller's own; "" stops.
// Error(device) if another recording is going on.
void record_into(const std::string& folder);

// False if nobody records.  Else submits the launches one by one, and writes
// what each of them reads and writes; `like` is a tensor of the device.
bool submit_recorded(device::Device& device,
                     const at::Tensor& like,
                     const attention::Plan& plan);

// The same into any existing folder; `count` launches are there already.
void record_plan(const std::string& folder,
                 int64_t& count,
                 device::Device& device,
                 const at::Tensor& like,
                 const attention::Plan& plan);

}  // namespace orchard::torch_ops
