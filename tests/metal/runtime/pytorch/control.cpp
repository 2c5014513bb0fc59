// tests/metal/runtime/pytorch/control.cpp: what tests in Python ask of the
// stand-in: faults, and whether anybody misused an object or a stream.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <vector>

#include "device/sim/sim.h"
#include "metal.h"
#include "runtime.h"
#include "streams/mps.h"

namespace standin {
namespace {

void fail_gpu(bool is_failing) { faults().is_running = !is_failing; }

// From now on pipelines of a kernel's larger tiles fail; of none, for "".
void limit_tiles(const std::string& kernel, int64_t fragments, int64_t slices) {
  if (kernel.empty()) {
    faults().tiles.clear();
  } else {
    faults().tiles[kernel] = {fragments, slices};
  }
}

// Lanes hold other elements of a matrix than an Apple GPU's do.
void set_foreign_layout(bool is_foreign) {
  orchard::sim::options().has_foreign_layout = is_foreign;
}

int64_t live(const std::string& kind) {
  const auto now = statistics().live;
  const auto found = now.find(kind);
  return found == now.end() ? 0 : found->second;
}

// Over-releases, messages to the dead, objects autoreleased without a pool,
// and calls of a stream off its queue: all must stay zero.
std::vector<int64_t> misuses() {
  const Statistics now = statistics();
  return {now.over_releases, now.messages_to_dead,
          now.autoreleased_without_pool, calls_off_queue()};
}

std::vector<std::string> take_encoded() {
  std::vector<std::string> messages = encoded();
  clear_encoded();
  return messages;
}

// An mps tensor over memory that is no MTLBuffer.
at::Tensor wrap_host_memory(const at::Tensor& like) {
  static std::array<float, 1 << 16> memory{};
  return at::from_blob(
      memory.data(), like.sizes(), like.strides(), [](void*) {}, like.options(),
      like.device());
}

TORCH_LIBRARY(standin, m) {
  m.def("wrap_host_memory(Tensor like) -> Tensor", wrap_host_memory);
  m.def("fail_gpu(bool is_failing) -> ()", fail_gpu);
  m.def("limit_tiles(str kernel, int fragments, int slices) -> ()",
        limit_tiles);
  m.def("set_foreign_layout(bool is_foreign) -> ()", set_foreign_layout);
  m.def("compilations() -> int", compilations);
  m.def("live(str kind) -> int", live);
  m.def("misuses() -> int[]", misuses);
  m.def("take_encoded() -> str[]", take_encoded);
}

}  // namespace
}  // namespace standin
