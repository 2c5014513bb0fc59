// csrc/device/sim/check/inputs.cpp: see inputs.h.
#include "device/sim/check/inputs.h"

#include <array>

#include "device/sim/check/check.h"

namespace orchard::sim::check {
namespace {

// One rule ties the kinds of input together: a vector has as many components
// in all of them.
constexpr std::array<std::string_view, 9> kPositions = {
    "thread_position_in_grid",
    "threads_per_grid",
    "thread_position_in_threadgroup",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "grid_origin",
    "grid_size"};
constexpr std::array<std::string_view, 12> kIndices = {
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "threads_per_simdgroup",
    "thread_execution_width",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup",
    "thread_index_in_quadgroup",
    "quadgroup_index_in_threadgroup",
    "quadgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup",
    "tile_index"};
// The specification wants one type within each of these.
constexpr std::array<std::string_view, 2> kGridTypes = {
    "thread_position_in_grid", "threads_per_grid"};
constexpr std::array<std::string_view, 3> kGroupTypes = {
    "thread_position_in_threadgroup", "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup"};
constexpr std::array<std::string_view, 8> kSimdTypes = {
    "thread_index_in_simdgroup",
    "threads_per_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup",
    "quadgroup_index_in_threadgroup",
    "quadgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup"};

}  // namespace

bool Inputs::is_input(std::string_view name) {
  return contains(kPositions, name) || contains(kIndices, name);
}

void Inputs::check(size_t at,
                   const std::string& name,
                   const std::string& type) {
  const bool is_position = contains(kPositions, name);
  const std::string scalar = type.substr(0, type.find_first_of("234"));
  if (scalar != "uint" && scalar != "ushort") {
    unit_.refuse(at,
                 "attribute " + name + " must be uint or ushort" +
                     (is_position ? ", or a vector of 2 or 3 of them" : "") +
                     ", not " + type);
  }
  if (!is_position && type != scalar) {
    unit_.refuse(at, "attribute " + name + " must be a scalar, not " + type +
                         ": write " + scalar);
  }
  if (is_position && type.ends_with("4")) {
    unit_.refuse(at, "attribute " + name + " has at most 3 components, not " +
                         type + ": write " + scalar + "3");
  }
  if (is_position) check_components(at, name, type.substr(scalar.size()));
  if (contains(kGridTypes, name)) match("grid", at, name, type);
  if (contains(kGroupTypes, name)) match("group", at, name, type);
  if (contains(kSimdTypes, name)) match("simd", at, name, type);
  if (name == "thread_position_in_threadgroup") position_ = scalar;
  if (name == "thread_index_in_threadgroup") index_ = {at, type};
  if (index_.second == "ushort" && position_ == "uint") {
    unit_.refuse(index_.first,
                 "attribute thread_index_in_threadgroup must be uint where "
                 "thread_position_in_threadgroup is: write uint");
  }
}

void Inputs::check_components(size_t at,
                              const std::string& name,
                              const std::string& count) {
  if (!components_) components_ = {name, count};
  if (components_->second == count) return;
  const auto told = [](const std::string& n) {
    return n.empty() ? std::string("is a scalar") : "has " + n + " components";
  };
  unit_.refuse(at, "attribute " + name + " " + told(count) + ", " +
                       components_->first + " " + told(components_->second) +
                       ": positions and sizes are all scalars or all vectors "
                       "of one length");
}

void Inputs::match(const char* group,
                   size_t at,
                   const std::string& name,
                   const std::string& type) {
  const auto [first, is_new] = types_.emplace(group, std::pair(name, type));
  if (is_new || first->second.second == type) return;
  unit_.refuse(at, "attribute " + name + " is " + type + ", " +
                       first->second.first + " is " + first->second.second +
                       ": both must have one type");
}

}  // namespace orchard::sim::check
