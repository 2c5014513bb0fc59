// csrc/torch/installation.h: what the results and the speed of kernels depend
// on besides themselves.
#pragma once

#include <string>

#include "device/device.h"

namespace orchard::torch_ops {

// Which GPU, system, PyTorch, orchard-ops and texts of kernels, a line each:
// the beginning of whatever is kept about kernels in the user's cache.
std::string installation(const device::Device& device);

// PyTorch's and ours: "PyTorch 2.4.1, ...".
void set_versions(std::string versions);

}  // namespace orchard::torch_ops
