// csrc/torch/metalsim/failure.h: allocations that fail because a test asks.
#pragma once

#include <cstdint>

namespace orchard::metalsim {

// The allocation that many after the next fails, once; below 0 none does.
void fail_allocation(int64_t after);
// How many have been made since then.
int64_t allocations();

}  // namespace orchard::metalsim
