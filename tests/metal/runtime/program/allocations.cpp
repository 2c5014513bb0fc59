// tests/metal/runtime/program/allocations.cpp: the program's operator new,
// which counts.
#include "allocations.h"

#include <cstdlib>
#include <new>

namespace {

thread_local uint64_t count = 0;

}  // namespace

uint64_t standin::allocations() { return count; }

// The other forms of new and delete call these.
void* operator new(size_t bytes) {
  ++count;
  if (void* const memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
