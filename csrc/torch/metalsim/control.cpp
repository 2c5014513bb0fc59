// csrc/torch/metalsim/control.cpp: what orchard_ops/sim/_metalsim.py asks of
// the device, as operators, so that the library needs no Python.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "torch/metalsim/compat.h"
#include "torch/metalsim/device.h"
#include "torch/metalsim/failure.h"
#include "torch/metalsim/memory.h"

namespace orchard::metalsim {
namespace {

void manual_seed(int64_t seed) {
  at::Generator generator = default_generator();
  const std::lock_guard lock(generator.mutex());
  generator.set_current_seed(static_cast<uint64_t>(seed));
}

int64_t seed() {
  at::Generator generator = default_generator();
  const std::lock_guard lock(generator.mutex());
  return static_cast<int64_t>(generator.seed());
}

int64_t initial_seed() {
  return static_cast<int64_t>(default_generator().current_seed());
}

at::Tensor rng_state() { return default_generator().get_state(); }

void set_rng_state(const at::Tensor& state) {
  at::Generator generator = default_generator();
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

std::string storage_mode() {
  return sim::options().default_storage_mode == device::StorageMode::shared
             ? "shared"
             : "private";
}

void set_storage_mode(std::string mode) {
  TORCH_CHECK(mode == "private" || mode == "shared",
              "[InvalidProblemError] metalsim: expected storage mode 'private' "
              "or 'shared', got '",
              mode, "'");
  sim::options().default_storage_mode = mode == "shared"
                                            ? device::StorageMode::shared
                                            : device::StorageMode::private_;
}

std::tuple<int64_t, int64_t> memory() {
  return {static_cast<int64_t>(sim::allocated_bytes()),
          static_cast<int64_t>(sim::peak_bytes())};
}

void set_schedule_seed(int64_t seed) {
  sim::options().seed = static_cast<uint64_t>(seed);
}

bool strict() { return sim::options().strict; }
void set_strict(bool enabled) { sim::options().strict = enabled; }

bool idle() { return sim::options().is_idle; }

void set_compiler(std::string command) {
  sim::options().compiler = std::move(command);
}

std::tuple<std::vector<std::string>, std::vector<int64_t>> counters() {
  std::vector<std::string> names;
  std::vector<int64_t> values;
  for (auto& [name, value] : sim::counters().items()) {
    names.push_back(name);
    values.push_back(static_cast<int64_t>(value));
  }
  return {std::move(names), std::move(values)};
}

// Three lists side by side: kernel, counter, value.
std::tuple<std::vector<std::string>,
           std::vector<std::string>,
           std::vector<int64_t>>
kernel_counters() {
  std::vector<std::string> kernels, names;
  std::vector<int64_t> values;
  for (const auto& [kernel, counters] : sim::kernel_counters()) {
    for (auto& [name, value] : counters.items()) {
      kernels.push_back(kernel);
      names.push_back(name);
      values.push_back(static_cast<int64_t>(value));
    }
  }
  return {std::move(kernels), std::move(names), std::move(values)};
}

std::string family() {
  return std::string(1, "ABC"[static_cast<size_t>(sim::options().family)]);
}

void set_family(std::string name) {
  TORCH_CHECK(name == "A" || name == "B" || name == "C",
              "[InvalidProblemError] metalsim: expected GPU family 'A', 'B' or "
              "'C', got '",
              name, "'");
  sim::options().family = static_cast<device::Family>(name[0] - 'A');
}

TORCH_LIBRARY(orchard_metalsim, m) {
  m.def("set_autocast_enabled(bool enabled) -> ()", &set_autocast_enabled);
  m.def("set_autocast_dtype(ScalarType dtype) -> ()", &set_autocast_dtype);
  m.def("manual_seed(int seed) -> ()", &manual_seed);
  m.def("seed() -> int", &seed);
  m.def("initial_seed() -> int", &initial_seed);
  m.def("rng_state() -> Tensor", &rng_state);
  m.def("set_rng_state(Tensor state) -> ()", &set_rng_state);
  m.def("storage_mode() -> str", &storage_mode);
  m.def("set_storage_mode(str mode) -> ()", &set_storage_mode);
  m.def("memory() -> (int, int)", &memory);
  m.def("reset_peak_memory() -> ()", &sim::reset_peak_bytes);
  m.def("set_schedule_seed(int seed) -> ()", &set_schedule_seed);
  m.def("strict() -> bool", &strict);
  m.def("set_strict(bool enabled) -> ()", &set_strict);
  m.def("idle() -> bool", &idle);
  m.def("set_idle(bool enabled) -> ()", &set_idle);
  m.def("set_compiler(str command) -> ()", &set_compiler);
  m.def("fail_allocation(int after) -> ()", &fail_allocation);
  m.def("allocations() -> int", &allocations);
  m.def("counters() -> (str[], int[])", &counters);
  m.def("kernel_counters() -> (str[], str[], int[])", &kernel_counters);
  m.def("reset_counters() -> ()", &sim::reset_counters);
  m.def("take_fallbacks() -> str[]", &take_fallbacks);
  m.def("family() -> str", &family);
  m.def("set_family(str name) -> ()", &set_family);
}

}  // namespace
}  // namespace orchard::metalsim
