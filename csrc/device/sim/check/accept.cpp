// csrc/device/sim/check/accept.cpp: see accept.h.
#include "device/sim/check/accept.h"

#include <algorithm>
#include <sstream>

#include "device/device.h"
#include "device/sim/check/check.h"

namespace orchard::sim {
std::string accept(std::string_view preprocessed, int version) {
  check::Unit unit(preprocessed, version);
  check::check_words(unit);
  check::check_language(unit);
  check::check_constants(unit);
  check::check_pointers(unit);
  check::check_variables(unit);
  check::check_kernels(unit);
  // C++ for OpenCL has no attributes.
  for (size_t i = 0; i < unit.size(); ++i) {
    if (unit.in_attribute(i)) unit.rewrite(i, "");
  }
  return unit.rewritten();
}

uint64_t declared_threadgroup_bytes(const std::string& assembly) {
  constexpr std::string_view function = "define ";
  constexpr std::string_view variable = "call ";
  constexpr std::string_view size = "@_Z15msl_threadgroupILm";
  uint64_t most = 0, bytes = 0;
  std::istringstream lines(assembly);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(function)) bytes = 0;
    const size_t at = line.find(size);
    if (at == line.npos || line.find(variable) > at) continue;
    bytes += std::stoull(line.substr(at + size.size()));
    most = std::max(most, bytes);
  }
  return most;
}

std::vector<std::string> spilled_types(const std::string& assembly) {
  constexpr std::string_view on_stack = " = alloca ";
  std::vector<std::string> found;
  std::istringstream lines(assembly);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(on_stack);
    if (at == line.npos) continue;
    const std::string type = line.substr(at + on_stack.size());
    found.push_back(type.substr(0, type.find(", align")));
  }
  return found;
}

}  // namespace orchard::sim
