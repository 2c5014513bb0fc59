// csrc/device/sim/accept.h: the rules of Metal that text must keep although the
// simulator could run it without.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

// Checks what stands in no type: every pointer and reference names its address
// space, position attributes of a kernel have one type, index attributes are
// scalars of one width.  Returns C++ for OpenCL, whose type checker enforces
// the rest over msl/accept.h: no pointer changes its space, no bfloat is
// converted silently, array sizes are constant, no double, no function pointer,
// no variable outside functions but constants.  Throws Error(compile).
std::string accept(std::string_view preprocessed);

// Both read LLVM assembly of such text; the second one optimized.
uint64_t declared_threadgroup_bytes(const std::string& assembly);
std::vector<std::string> spilled_types(const std::string& assembly);

}  // namespace orchard::sim
