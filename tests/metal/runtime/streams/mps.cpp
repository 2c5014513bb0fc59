// tests/metal/runtime/streams/mps.cpp: libdispatch's one function, and the
// members of PyTorch's MPS streams that mps_stream.cpp names.
#include "streams/mps.h"

#include <dispatch/dispatch.h>
#include <torch/mps.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "metal.h"

#if ORCHARD_TORCH_MINOR >= 7
#include <ATen/mps/MPSStream.h>
#else
namespace at::mps {
enum class SyncType { NONE, COMMIT };
class MPSStream {
 public:
  explicit MPSStream(dispatch_queue_t queue) : queue_(queue) {}
  dispatch_queue_t queue() const { return queue_; }
  void* commandBuffer();
  void* commandEncoder();
  void synchronize(SyncType type);

 private:
  dispatch_queue_t queue_;
};
MPSStream* getCurrentMPSStream();
}  // namespace at::mps
#endif

struct dispatch_queue_s {
  std::mutex mutex;
};

namespace {

constexpr int kStreams = ORCHARD_TORCH_MINOR >= 14 ? 2 : 1;

struct OneStream {
  dispatch_queue_s queue;
  at::mps::MPSStream torch{&queue};
  standin::Stream metal;
};

OneStream& stream(int index) {
  static OneStream* const all = new OneStream[kStreams];
  return all[index];
}

thread_local int current = 0;
thread_local dispatch_queue_t inside = nullptr;
std::atomic<int> off_queue = 0;

OneStream& owner(const at::mps::MPSStream* torch) {
  for (int i = 0; i < kStreams; ++i) {
    if (&stream(i).torch == torch) return stream(i);
  }
  std::abort();
}

}  // namespace

// noexcept, as libdispatch's C frames are in effect: an exception that gets
// here ends the process.
extern "C" void dispatch_sync_f(dispatch_queue_t queue,
                                void* context,
                                dispatch_function_t work) noexcept {
  if (inside != nullptr) {
    std::fputs("dispatch_sync on the queue that runs: deadlock\n", stderr);
    std::abort();
  }
  const std::lock_guard<std::mutex> lock(queue->mutex);
  inside = queue;
  work(context);
  inside = nullptr;
}

namespace at::mps {

void* MPSStream::commandBuffer() {
  off_queue += inside != queue_;
  return owner(this).metal.command_buffer();
}

void* MPSStream::commandEncoder() {
  off_queue += inside != queue_;
  return owner(this).metal.compute_encoder();
}

void MPSStream::synchronize(SyncType type) {
  off_queue += inside != queue_;
  if (type != SyncType::COMMIT) std::abort();  // what we ask for
  owner(this).metal.commit();
}

MPSStream* getCurrentMPSStream() { return &stream(current).torch; }

}  // namespace at::mps

namespace torch::mps {

// On the queue of each stream, as 2.15 does it: from inside a block of one this
// would never return.  2.15 also says if a command buffer failed.
void synchronize() {
  bool is_good = true;
  for (int i = 0; i < kStreams; ++i) {
    is_good = standin::synchronize_stream(i) && is_good;
  }
  if (standin::pytorch_reports_gpu_errors() && !is_good) {
    throw std::runtime_error("command buffer exited with error status");
  }
}
// 2.14's is still the default stream's.
void* get_dispatch_queue() { return &stream(0).queue; }

}  // namespace torch::mps

namespace standin {

int stream_count() { return kStreams; }
bool pytorch_reports_gpu_errors() { return ORCHARD_TORCH_MINOR >= 15; }
void use_stream(int index) { current = index; }

bool synchronize_stream(int index) {
  struct Work {
    Stream& metal;
    bool is_good;
  } work{stream(index).metal, true};
  dispatch_sync_f(&stream(index).queue, &work, [](void* context) {
    auto& of = *static_cast<Work*>(context);
    of.is_good = of.metal.synchronize();
  });
  return work.is_good;
}

bool is_on_queue() { return inside == &stream(current).queue; }
int calls_off_queue() { return off_queue; }

}  // namespace standin
