// csrc/device/sim/compile/translate.h: from preprocessed Metal to C++ for the
// compiler.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "device/sim/sim.h"

namespace orchard::sim {

// One kernel of a text, and the values of its function constants.
struct Wanted {
  std::string entry;
  Constants constants{};
  // Of this library, whose texts keep to what needs no rewriting.
  bool is_ours = false;
};

// What a host can ask for, in the order of the text.
std::vector<std::string> kernel_names(std::string_view preprocessed);

// What C++ lacks is rewritten (attributes, literals, threadgroup variables),
// and a description of the kernel for the simulator put behind it.  Lines keep
// their numbers.  Other kernels are not compiled.  Throws Error(compile)
// without one of that name.
std::string translate(std::string_view preprocessed, const Wanted& wanted);

}  // namespace orchard::sim
