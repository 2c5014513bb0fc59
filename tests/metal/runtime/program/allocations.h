// tests/metal/runtime/program/allocations.h: how often this thread has asked
// for memory.
#pragma once

#include <cstdint>

namespace standin {

uint64_t allocations();

}  // namespace standin
