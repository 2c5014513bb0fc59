// csrc/torch/metalsim/device.h: the device as PyTorch's core sees it: guard,
// hooks and random numbers.
#pragma once

#include <ATen/core/Generator.h>

#include <string>
#include <vector>

namespace orchard::metalsim {

const at::Generator& default_generator();

// The CPU generator behind a metalsim generator: random operators run on the
// CPU and accept only its own generator.
at::Generator host_generator(const at::Generator& generator);

// Names of the operators that the fallback has run since the last call: what
// this device has no kernel for, so a GPU needs one of its own.
std::vector<std::string> take_fallbacks();

}  // namespace orchard::metalsim
