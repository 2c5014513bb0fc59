// tests/metal/cuda/device.h: the device interface over CUDA's driver, for
// checks on an NVIDIA GPU.  Test-only: no package holds it.
#pragma once

#include "device/device.h"

namespace orchard::cuda {

// The current thread's GPU, in the context that PyTorch made.  A buffer view's
// handle is the address of its storage; work goes to the default stream.
device::Device& system_device();

}  // namespace orchard::cuda
