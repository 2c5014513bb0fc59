// csrc/device/device.h: the interface between host code and whoever runs the
// kernels: Apple's Metal or the simulator.  It knows buffers, pipelines and
// launches; it knows no attention and no torch.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/small_vector.h"

namespace orchard {

enum class ErrorKind : uint8_t {
  invalid_problem,
  unsupported,
  device,
  compile,
  pipeline,     // the text compiles, but the device runs no such kernel
  wrong_kernel  // it runs, and its results are not those of plain operators
};

// The one exception type of the C++ side.  Its text starts with the name of
// the Python class that it becomes, "[InvalidProblemError] ...", since only
// text crosses PyTorch's dispatcher (orchard_ops/_errors.py reads it).
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(std::string(tag(kind)) + message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }
  // What it says, without the class.
  std::string message() const { return what() + std::strlen(tag(kind_)); }

  static const char* tag(ErrorKind kind) noexcept {
    switch (kind) {
      case ErrorKind::invalid_problem:
        return "[InvalidProblemError] ";
      case ErrorKind::unsupported:
        return "[UnsupportedError] ";
      case ErrorKind::device:
        return "[DeviceError] ";
      case ErrorKind::wrong_kernel:
        return "[WrongKernelError] ";
      case ErrorKind::compile:
      case ErrorKind::pipeline:
        break;
    }
    return "[KernelCompileError] ";
  }

 private:
  ErrorKind kind_;
};

namespace device {

// Values are MTLStorageMode's.
enum class StorageMode : uint8_t {
  shared = 0,
  managed = 1,
  private_ = 2,
  memoryless = 3
};

// A part of a device buffer.  `handle` is an MTLBuffer or a sim::Buffer.
struct BufferView {
  void* handle = nullptr;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;  // from offset_bytes to the last byte in use
  StorageMode mode = StorageMode::shared;
};

// GPU classes of docs/kernels.md: a = Apple7/8, b = Apple9, c = Apple10.
enum class Family : uint8_t { a, b, c };

struct Limits {
  uint32_t max_threadgroup_bytes = 32768;
  uint32_t max_threads_per_threadgroup = 1024;
  Family family = Family::a;
  bool has_bfloat = true;
  uint32_t language_version = 0x30001;  // (major << 16) + minor
  uint64_t working_set_bytes = 0;       // recommended at most; 0: unknown
};

// One kernel, specialised by text.
struct PipelineRequest {
  std::string_view file;   // "forward.metal", relative to kernels/
  std::string_view entry;  // name of the kernel function
  std::vector<std::pair<std::string, std::string>> defines;  // in this order
};

class Pipeline {
 public:
  virtual ~Pipeline() = default;
  virtual uint32_t max_threads_per_threadgroup() const = 0;
};

enum class Access : uint8_t { read, write, read_write };

// Argument of one buffer slot: a device buffer, or bytes copied at encoding.
struct Argument {
  uint32_t index = 0;
  Access access = Access::read;
  BufferView view{};                   // used when bytes is empty
  std::span<const std::byte> bytes{};  // at most 4,096
};

using Size3 = std::array<uint32_t, 3>;

using Arguments = SmallVector<Argument, 12>;

struct Launch {
  std::shared_ptr<const Pipeline> pipeline;
  Arguments arguments;
  uint32_t threadgroup_bytes = 0;  // of [[threadgroup(0)]], 0 = not set
  Size3 threadgroups{1, 1, 1};
  Size3 threads_per_threadgroup{1, 1, 1};
  double seconds = 0.0;  // predicted, at most, on the slowest GPU
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  virtual const Limits& limits() const = 0;
  // Compiles, or returns the cached pipeline; safe under threads.  Throws
  // Error(pipeline) where another tile of the same kernel may still work.
  virtual std::shared_ptr<const Pipeline> pipeline(
      const PipelineRequest& request) = 0;
  // Encodes the launches in order; each sees the writes of those before it.
  virtual void submit(std::span<const Launch> launches) = 0;
  // The same for launches that are not the caller's own: a device that counts
  // what is launched leaves them out.
  virtual void submit_uncounted(std::span<const Launch> launches) {
    submit(launches);
  }
  // Seconds that a GPU has spent on finished launches, and on what was encoded
  // beside them, by its own time stamps; 0 where nothing tells.
  virtual double gpu_seconds() { return 0.0; }
  // Whether launches compute: a simulator may be told to drop them.
  virtual bool computes() const { return true; }
};

}  // namespace device
}  // namespace orchard
