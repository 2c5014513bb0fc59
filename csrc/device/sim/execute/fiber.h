// csrc/device/sim/execute/fiber.h: switching between the stacks of lanes.
#pragma once

#include <cstdint>

namespace orchard::sim {

// Saves the running stack's pointer in *from and continues at `to`.
extern "C" void orchard_fiber_switch(void** from, void* to);

// Stack pointer that makes the first switch to it call `entry`, which must
// never return.  `top` is a multiple of 64.
void* prepare_fiber(char* top, void (*entry)());

}  // namespace orchard::sim
