// csrc/device/sim/accept.h: the rules of Metal that text must keep although the
// simulator could run it without.
#pragma once

#include <string>
#include <string_view>

namespace orchard::sim {

// Checks what stands in no type: every pointer and reference names its address
// space, position attributes of a kernel have one type, index attributes are
// scalars of one width.  Returns C++ for OpenCL, whose type checker enforces
// the rest over msl/accept.h: no pointer changes its space, no bfloat is
// converted silently, array sizes are constant, no double, no function pointer,
// no variable outside functions but constants.  Throws Error(compile).
std::string accept(std::string_view preprocessed);

}  // namespace orchard::sim
