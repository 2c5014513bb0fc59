// csrc/torch/metalsim/kernels.h: which of the device's kernels are registered
// where: operators.cpp does it, in this order.
#pragma once

#include <torch/library.h>

namespace orchard::metalsim {

// Layers that PyTorch sends down another path on a device than on the CPU.
void register_layers(torch::Library& m);

// The CPU's kernel for every operator that has one and is not registered yet.
// The fallback alone would come too late where PyTorch also has a composite
// for all devices: `mean` and others would run another variant than the CPU's,
// which nobody has tried with the CPU's kernels under it.
void register_kernels_of_cpu(torch::Library& m);

}  // namespace orchard::metalsim
