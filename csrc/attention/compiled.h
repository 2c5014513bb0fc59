// csrc/attention/compiled.h: kernels as a device runs them, each made once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "attention/specialisation.h"

namespace orchard::attention {

enum Trust : uint8_t {
  kOwnResults = 1,
  kItsBackward = 2  // a forward's: the kernels that differentiate it
};

// A compiled specialisation, kept as long as the process: no more text is
// built and nothing is allocated to find it again.
struct Compiled {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string name;
  Specialisation specialisation;
  Slots slots;
  // Why it has a smaller tile than was asked for; empty if it has not.
  std::string replaced;
  // What is known to be right, as bits of Trust: of the kernel, for everybody
  // who launches it (torch/verify/verify.h).
  std::unique_ptr<std::atomic<uint8_t>> trust =
      std::make_unique<std::atomic<uint8_t>>(uint8_t{0});
};

// That of a specialisation, or of one with a smaller tile: whether a kernel's
// registers suffice is known only when its pipeline is made.  Error(compile)
// if no tile gives a pipeline; a failure is not remembered.
const Compiled& compiled(device::Device& device, const Specialisation& s);

}  // namespace orchard::attention
