// csrc/device/sim/check/inputs.h: types of a kernel's positions, sizes and
// indices, as the specification ties them together.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "device/sim/check/unit.h"

namespace orchard::sim::check {

// Of one kernel.
class Inputs {
 public:
  explicit Inputs(Unit& unit) : unit_(unit) {}

  static bool is_input(std::string_view name);
  // Refuses, at token `at`, what its own attribute or an earlier one forbids.
  void check(size_t at, const std::string& name, const std::string& type);

 private:
  using Told = std::pair<std::string, std::string>;  // attribute, type or count

  void check_components(size_t at,
                        const std::string& name,
                        const std::string& count);
  void match(const char* group,
             size_t at,
             const std::string& name,
             const std::string& type);

  Unit& unit_;
  std::map<std::string, Told> types_;  // first of each group
  std::optional<Told> components_;
  std::string position_;
  std::pair<size_t, std::string> index_;
};

}  // namespace orchard::sim::check
