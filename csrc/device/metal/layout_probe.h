// csrc/device/metal/layout_probe.h: whether a GPU spreads a simdgroup matrix
// over its lanes as the kernels assume.
#pragma once

#include "device/metal/pipeline.h"

namespace orchard::metal {

// Runs kernels/layout_probe.metal once, on a queue of its own, and waits.
// Error(unsupported) if the layout differs, Error(device) if it cannot run.
void check_lane_layout(MTL::Device* device, const Pipeline& probe);

// The request whose pipeline check_lane_layout() takes.
device::PipelineRequest lane_layout_request();

}  // namespace orchard::metal
