// csrc/torch/mps_stream.h: PyTorch's MPS stream, lent to the Metal device.
#pragma once

#include "device/metal/metal.h"

namespace orchard::torch_ops {

// Encodes into the current stream's command buffer, in PyTorch's own order.
metal::EncoderSource& mps_stream();

// Waits for the GPU; Error(device) if work of ours failed there.
void synchronize_mps();

}  // namespace orchard::torch_ops
