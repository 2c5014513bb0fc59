// csrc/torch/tuned.cpp: see tuned.h.
#include "torch/tuned.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "attention/choices.h"
#include "attention/spill.h"
#include "device/user_cache.h"
#include "torch/installation.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Choices;
using device::Device;

constexpr const char* kOperation = "tune";

std::string gpu_class(const Device& device) {
  return std::string(1, "ABC"[static_cast<size_t>(device.limits().family)]);
}

std::string key_of(const Device& device) {
  return "orchard-ops tuned\n" + installation(device) + "class " +
         gpu_class(device) + "\n";
}

Choices read(const Device& device, const std::string& text) {
  return attention::read_choices(device.limits().family, text);
}

bool is_wanted() {
  const char* text = std::getenv("ORCHARD_TUNED");
  const std::string value = text == nullptr ? "" : text;
  if (value.empty() || value == "use") return true;
  if (value == "never") return false;
  attention::refuse(kOperation,
                    "expected ORCHARD_TUNED to be use or never, got '", value,
                    "'; unset it for use");
}

// Reading what is kept must not fail anybody's call.
Choices load(const Device& device) {
  if (!is_wanted()) return {};
  try {
    return read(device, device::kept_text(key_of(device)).value_or(""));
  } catch (const Error& error) {
    TORCH_WARN("orchard_ops leaves alone what was tuned on this GPU: ",
               error.message(),
               "; run `orchard-ops tune` again, or `orchard-ops tune --reset`");
  }
  return {};
}

void load_once(const Device& device) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!attention::has_choices(device)) {
    attention::set_choices(device, load(device));
  }
}

}  // namespace

Device& tuned_device_of(const char* operation, const Tensor& tensor) {
  Device& device = device_of(operation, tensor);
  if (!attention::has_choices(device)) load_once(device);
  return device;
}

std::string kept_choices(const Tensor& like) {
  return device::kept_text(key_of(device_of(kOperation, like))).value_or("");
}

void keep_choices(const Tensor& like, std::string choices) {
  const Device& device = device_of(kOperation, like);
  Choices read_back = read(device, choices);
  device::keep_text(key_of(device), choices);
  attention::set_choices(device, std::move(read_back));
}

void try_choices(const Tensor& like, OptionalText choices) {
  const Device& device = device_of(kOperation, like);
  attention::try_choices(
      choices ? std::optional<Choices>(read(device, *choices)) : std::nullopt);
}

std::vector<int64_t> chosen_tile(const Tensor& like,
                                 std::string kernel,
                                 std::string dtype,
                                 int64_t head_dim) {
  const attention::Tile& tile = attention::choose_tile(
      attention::tables_of(tuned_device_of(kOperation, like)),
      attention::kernel_called(kernel), attention::dtype_called(dtype),
      head_dim);
  return {tile.rows, tile.cols, tile.simdgroups, tile.slices};
}

int64_t chosen_scratch(const Tensor& like,
                       std::string dtype,
                       int64_t head_dim) {
  return attention::scratch_by_default(tuned_device_of(kOperation, like),
                                       attention::dtype_called(dtype),
                                       head_dim);
}

double gpu_seconds(const Tensor& like) {
  return device_of(kOperation, like).gpu_seconds();
}

std::string gpu_class(const Tensor& like) {
  return gpu_class(device_of(kOperation, like));
}

}  // namespace orchard::torch_ops
