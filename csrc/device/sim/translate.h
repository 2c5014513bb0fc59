// csrc/device/sim/translate.h: from preprocessed Metal to C++ for the compiler.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

// What C++ lacks is rewritten (attributes, literals, threadgroup variables),
// and a table of the kernels found is appended.  Lines keep their numbers.
std::string translate(std::string_view preprocessed);

}  // namespace orchard::sim
