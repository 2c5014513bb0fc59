// csrc/device/metal/autorelease.cpp: see AutoreleaseScope in metal.h.
#include "device/metal/apple.h"
#include "device/metal/metal.h"

namespace orchard::metal {

AutoreleaseScope::AutoreleaseScope()
    : pool_(NS::AutoreleasePool::alloc()->init()) {}

AutoreleaseScope::~AutoreleaseScope() {
  static_cast<NS::AutoreleasePool*>(pool_)->drain();
}

}  // namespace orchard::metal
