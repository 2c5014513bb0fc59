// csrc/device/sim/check/accept.h: the rules of Metal that text must keep
// although the simulator could run it without.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

// Checks by check/check.h what stands in no type: names, address spaces, kernel
// signatures, where variables are declared, what C++ the version has (310 for
// Metal 3.1).  Returns C++ for OpenCL, whose type checker enforces the rest
// over msl/accept.h: no pointer changes its space, array sizes are constant, no
// overload is ambiguous.  Throws Error(compile).
std::string accept(std::string_view preprocessed, int version);

// Both read LLVM assembly of such text; the second one optimized.  The first
// is what the kernel declares that declares most.
uint64_t declared_threadgroup_bytes(const std::string& assembly);
std::vector<std::string> spilled_types(const std::string& assembly);

}  // namespace orchard::sim
