// csrc/attention/survey.h: what a device says of each class of kernel.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"

namespace orchard::attention {

// The most threads a threadgroup of a kernel may have, by its pipeline: as it
// ships, with max_total_threads_per_threadgroup, and without that attribute,
// where the number tells of the registers that it needs.  0: no pipeline.
struct ThreadLimit {
  std::string kernel;
  uint32_t with_attribute = 0;
  uint32_t without = 0;
};

// Of every kernel in float16, the tiled ones for three head sizes.
std::vector<ThreadLimit> thread_limits(device::Device& device);

}  // namespace orchard::attention
