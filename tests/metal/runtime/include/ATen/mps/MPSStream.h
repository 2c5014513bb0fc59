// tests/metal/runtime/include/ATen/mps/MPSStream.h: what mps_stream.cpp uses of
// PyTorch's header from 2.7 on, as plain C++ sees it: queue() is inline there.
#pragma once

#include <dispatch/dispatch.h>

namespace at::mps {

enum class SyncType {
  NONE,
  COMMIT,
  COMMIT_AND_WAIT,
  COMMIT_AND_CONTINUE,
  COMMIT_ADAPTIVE
};

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
