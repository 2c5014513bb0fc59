// tests/metal_runtime/mps.cpp: libdispatch's one function, and the members of
// PyTorch's MPS stream that mps_stream.cpp names, for PyTorch before 2.7.
#include "mps.h"

#include <dispatch/dispatch.h>
#include <torch/mps.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "metal.h"

struct dispatch_queue_s {
  std::mutex mutex;
};

namespace {

dispatch_queue_s the_queue;
thread_local bool is_inside = false;
std::atomic<int> off_queue = 0;

standin::Stream& stream() {
  static standin::Stream& one = *new standin::Stream;
  return one;
}

void check() { off_queue += !is_inside; }

}  // namespace

// noexcept, as libdispatch's C frames are in effect: an exception that gets
// here ends the process.
extern "C" void dispatch_sync_f(dispatch_queue_t queue,
                                void* context,
                                dispatch_function_t work) noexcept {
  if (is_inside) {
    std::fputs("dispatch_sync on the queue that runs: deadlock\n", stderr);
    std::abort();
  }
  const std::lock_guard<std::mutex> lock(queue->mutex);
  is_inside = true;
  work(context);
  is_inside = false;
}

namespace at::mps {

class MPSStream {
 public:
  void* commandBuffer();
  void* commandEncoder();
};

void* MPSStream::commandBuffer() {
  check();
  return stream().command_buffer();
}

void* MPSStream::commandEncoder() {
  check();
  return stream().compute_encoder();
}

MPSStream* getCurrentMPSStream() {
  static MPSStream one;
  return &one;
}

}  // namespace at::mps

namespace torch::mps {

void synchronize() { stream().synchronize(); }
void* get_dispatch_queue() { return &the_queue; }

}  // namespace torch::mps

namespace standin {

bool is_on_queue() { return is_inside; }
int calls_off_queue() { return off_queue; }

}  // namespace standin
