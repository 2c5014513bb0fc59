// csrc/device/sim/check/number.h: integers written out in a text.
#pragma once

#include <optional>
#include <string_view>

namespace orchard::sim::check {

// The value of literals joined by + - * / and parentheses; nullopt where a name
// or anything else stands.
std::optional<long> number_of(std::string_view expression);

}  // namespace orchard::sim::check
