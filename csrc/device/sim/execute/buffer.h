// csrc/device/sim/execute/buffer.h: buffers as the executor sees them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "device/sim/sim.h"

namespace orchard::sim {

// Opens buffers to the host's processor for the length of a submission.
class DeviceAccess {
 public:
  explicit DeviceAccess(Buffer* buffer);
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;

 private:
  Buffer* buffer_;
};

// First byte, whatever the mode; valid only while access is open.
std::byte* bytes(const Buffer* buffer);
// True while the poison before and after the buffer's bytes is whole.
bool has_whole_redzones(const Buffer* buffer);
void repair_redzones(Buffer* buffer);
// Buffer whose pages, guards included, hold the address; or null.
Buffer* find_near(const void* address);
// Around a fork: nobody allocates or releases in between.
void hold_buffers();
void go_on_allocating();

}  // namespace orchard::sim
