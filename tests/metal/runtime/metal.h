// tests/metal/runtime/metal.h: Metal's classes over the simulator, the faults
// that tests inject into them, and what they saw.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "device/device.h"

namespace orchard::sim {
struct Buffer;
}

namespace standin {

struct TileLimit {
  int64_t fragments;  // at most, TILE_ROWS * TILE_COLS
  int64_t slices;     // at least, SLICES
};

struct Faults {
  bool has_device = true;
  bool is_compiling = true;  // else newLibraryWithSource fails
  bool has_function = true;
  bool is_making_pipelines = true;
  bool is_allocating = true;   // else newBufferWithLength gives nil
  bool is_running = true;      // else command buffers end in error
  bool is_concurrent = false;  // encoders that a stream gives out
  int macos = 15;
  int family = 7;            // newest Apple family it supports
  uint32_t max_threads = 0;  // of a compiled pipeline; 0: as compiled
  // The largest tiles whose pipelines are made, by kernel: what needs more
  // registers, a larger tile or fewer slices, fails as on a GPU.
  std::map<std::string, TileLimit> tiles;
};
Faults& faults();

// Puts faults() in force: methods that an older macOS lacks disappear.
void apply_faults();

// What the last compilation was given.
struct Compilation {
  std::string source;
  uint32_t language_version = 0;
  int64_t math_mode = -1;  // -1: never set
  int64_t math_functions = -1;
  int is_fast_math = -1;
};
Compilation last_compilation();
int64_t compilations();

// Every message that an encoder got, in order: "setBuffer 0 +16".
std::vector<std::string> encoded();
void clear_encoded();

// A buffer of the simulated GPU, one reference, the caller's.
void* new_buffer(uint64_t length_bytes, orchard::device::StorageMode mode);
// The simulator's buffer under it.
orchard::sim::Buffer* memory_of(void* buffer);
// Copies in and out whatever the mode.
void write_buffer(void* buffer, const void* data, uint64_t length_bytes);
void read_buffer(void* buffer, void* data, uint64_t length_bytes);

// A stream as PyTorch keeps one: one open command buffer and encoder, given
// out again and again until it is committed.  The command buffer is an
// MPSCommandBuffer, which stays the same object while the Metal ones under it
// are committed; what is committed runs when somebody waits.
class Stream {
 public:
  Stream();
  ~Stream();
  void* command_buffer();
  void* compute_encoder();
  // Ends the encoder, commits, and goes on with another command buffer.
  void commit();
  // Ends the encoder, commits, waits; false if the command buffer failed.
  bool synchronize();
  // Throws the command buffer away, as if it had never been committed.
  void abandon();

 private:
  void end_encoder();

  void* queue_ = nullptr;
  std::vector<void*> committed_;
  void* buffer_ = nullptr;
  void* encoder_ = nullptr;
};

}  // namespace standin
