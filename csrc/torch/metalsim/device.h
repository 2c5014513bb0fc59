// csrc/torch/metalsim/device.h: the device as PyTorch's core sees it: guard,
// hooks and random numbers.
#pragma once

#include <ATen/core/Generator.h>

namespace orchard::metalsim {

const at::Generator& default_generator();

// The CPU generator behind a metalsim generator: random operators run on the
// CPU and accept only its own generator.
at::Generator host_generator(const at::Generator& generator);

}  // namespace orchard::metalsim
