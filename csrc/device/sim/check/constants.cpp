// csrc/device/sim/check/constants.cpp: what a constexpr function may call; see
// check.h.
#include <algorithm>
#include <array>

#include "device/sim/check/check.h"

namespace orchard::sim::check {
namespace {

constexpr std::array<std::string_view, 58> kMath = {
    "abs",    "acos",       "acosh",  "asin",    "asinh",    "atan",
    "atan2",  "atanh",      "ceil",   "clamp",   "copysign", "cos",
    "cosh",   "cospi",      "cross",  "divide",  "dot",      "exp",
    "exp10",  "exp2",       "fabs",   "fdim",    "floor",    "fma",
    "fmax",   "fmin",       "fmod",   "fract",   "frexp",    "ldexp",
    "length", "log",        "log10",  "log2",    "max",      "min",
    "mix",    "modf",       "pow",    "powr",    "rint",     "round",
    "rsqrt",  "saturate",   "select", "sign",    "sin",      "sincos",
    "sinh",   "smoothstep", "sqrt",   "step",    "tan",      "tanh",
    "trunc",  "normalize",  "sinpi",  "popcount"};
// What decides whether a call happens at all.
constexpr std::array<std::string_view, 8> kBranches = {
    "?", "if", "for", "while", "switch", "&", "|", "return"};

bool is_constexpr(Unit& unit, const Function& f) {
  for (size_t k = f.begin; k < f.name; ++k) {
    if (unit.is(k, "constexpr")) return true;
  }
  return false;
}

// Up to the first return; behind a branch nothing is certain.
size_t certain_end(Unit& unit, const Function& f) {
  const size_t end = unit.closing(f.body);
  for (size_t k = f.body + 1; k < end; ++k) {
    if (!contains(kBranches, unit.at(k).text)) continue;
    if (!unit.is(k, "return")) return k;
    size_t last = k + 1;
    while (last < end && !unit.is(last, ";")) {
      if (contains(kBranches, unit.at(last).text)) return k;
      ++last;
    }
    return last;
  }
  return end;
}

}  // namespace

bool is_library_function(std::string_view word) {
  return contains(kMath, word);
}

void check_constants(Unit& unit) {
  const auto is_own = [&](size_t name) {
    return std::any_of(
        unit.functions().begin(), unit.functions().end(),
        [&](const Function& f) { return unit.is(f.name, unit.at(name).text); });
  };
  for (const Function& f : unit.functions()) {
    if (f.body == kNowhere || f.is_template || !is_constexpr(unit, f)) continue;
    const size_t end = certain_end(unit, f);
    for (size_t k = f.body + 1; k + 1 < end; ++k) {
      const bool is_call = unit.is(k + 1, "(") && !unit.is(k - 1, ".") &&
                           contains(kMath, unit.at(k).text);
      if (!is_call || is_own(k)) continue;
      unit.refuse(f.name,
                  "constexpr function never produces a constant expression: '" +
                      unit.at(k).text +
                      "' of Metal's library is not constexpr; leave constexpr "
                      "out");
    }
  }
}

}  // namespace orchard::sim::check
