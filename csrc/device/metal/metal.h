// csrc/device/metal/metal.h: Apple's Metal behind device.h.  Whoever owns the
// GPU's command stream (PyTorch, or a test) lends its open encoder.
#pragma once

#include <cstdint>
#include <functional>

#include "device/device.h"

namespace orchard::metal {

// Frees autoreleased objects at the end of a scope.  A Python thread has no
// pool of its own: without this they would stay for the life of the process.
class AutoreleaseScope {
 public:
  AutoreleaseScope();
  ~AutoreleaseScope();
  AutoreleaseScope(const AutoreleaseScope&) = delete;
  AutoreleaseScope& operator=(const AutoreleaseScope&) = delete;

 private:
  void* pool_;  // NSAutoreleasePool
};

// Metal objects of the caller, borrowed for one call.
struct OpenEncoder {
  void* command_buffer;   // id<MTLCommandBuffer>
  void* compute_encoder;  // id<MTLComputeCommandEncoder>, still open
};

// Lends the stream's encoder.  Nothing may be compiled, allocated on the GPU or
// ended inside `encode`, and committed only by commit().
class EncoderSource {
 public:
  using Encode = std::function<void(const OpenEncoder&)>;
  virtual ~EncoderSource() = default;
  // Calls `encode` once, where nobody else encodes, before it returns; what
  // `encode` throws comes out of here.
  virtual void run(const Encode& encode) = 0;
  // Inside `encode`: commits what has been encoded, and lends what comes after
  // it in the stream's order.
  virtual OpenEncoder commit() = 0;
  // Whether the stream's owner watches its command buffers and reports those
  // that fail, so that reporting them here too would say it twice.
  virtual bool reports_gpu_errors() const { return false; }
};

struct BufferInfo {
  device::StorageMode mode;
  uint64_t length_bytes;
};

// What an MTLBuffer says of itself; Error(device) if the handle is none, or if
// kernels cannot use it.  No read through a handle that is no live object.
BufferInfo buffer_info(const char* operation, const void* handle);

// The device that owns a live buffer, and the system's, when there is no
// buffer to ask.  One object for each GPU, for the life of the process; the
// first call's encoder source stays.
device::Device& device_of(const void* buffer, EncoderSource& source);
device::Device& system_device(EncoderSource& source);

// The GPU runs after submit() has returned: throws Error(device) if it has
// since reported that a submission failed.  submit() asks too, before it
// encodes.  `device` is one of the above.
void throw_gpu_error(device::Device& device);

}  // namespace orchard::metal
