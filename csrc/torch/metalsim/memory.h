// csrc/torch/metalsim/memory.h: storages whose data pointer is the handle of a
// simulated buffer, as on MPS it is the MTLBuffer.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/StorageImpl.h>

#include <cstddef>

#include "device/sim/sim.h"

namespace orchard::metalsim {

constexpr c10::DeviceType device_type = c10::DeviceType::PrivateUse1;

inline c10::Device device() { return {device_type, 0}; }

inline bool is_metalsim(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == device_type;
}

c10::Allocator* allocator();

// Drops every launch from now on, or no longer.
void set_idle(bool is_idle);

// The buffer under a storage; nullptr for a storage of no bytes.  Throws for a
// pointer that is no live buffer of the simulator, without looking behind it.
sim::Buffer* buffer_of(const c10::StorageImpl& storage);

// Makes a storage `bytes` long, keeping the bytes that fit.
void resize_storage(c10::StorageImpl& storage, size_t bytes);

// Host memory that counts as pinned.  There is no DMA to pin it for: the
// addresses are remembered so that is_pinned() tells the truth.
c10::Allocator* pinned_allocator();
bool is_pinned(const void* data);

}  // namespace orchard::metalsim
