// csrc/attention/compiled.h: kernels as a device runs them, each made once.
#pragma once

#include <memory>
#include <string>

#include "attention/specialisation.h"

namespace orchard::attention {

// A compiled specialisation, kept as long as the process: no more text is
// built and nothing is allocated to find it again.
struct Compiled {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string name;
  Specialisation specialisation;
  Slots slots;
  // Why it has a smaller tile than was asked for; empty if it has not.
  std::string replaced;
};

// That of a specialisation, or of one with a smaller tile: whether a kernel's
// registers suffice is known only when its pipeline is made.  Error(compile)
// if no tile gives a pipeline; a failure is not remembered.
const Compiled& compiled(device::Device& device, const Specialisation& s);

}  // namespace orchard::attention
