// tests/metal/runtime/objects.h: the objects that metal.cpp and commands.cpp
// share.
#pragma once

#include <memory>
#include <string>

#include "device/sim/sim.h"
#include "metal.h"
#include "runtime.h"

namespace standin {

namespace sim = orchard::sim;
using orchard::device::StorageMode;

struct Text : Object {
  std::string bytes;
};
struct Failure : Object {
  std::string reason;
};
struct Pipeline : Object {
  bool is_bounded = true;  // by max_total_threads_per_threadgroup
  std::shared_ptr<const orchard::device::Pipeline> compiled;
};
struct Buffer : Object {
  sim::Buffer* memory = nullptr;
  StorageMode mode = StorageMode::shared;
};
struct Size {
  uint64_t width, height, depth;
};

}  // namespace standin
