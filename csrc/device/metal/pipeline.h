// csrc/device/metal/pipeline.h: kernels compiled by Metal, each once.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "device/device.h"
#include "device/metal/apple.h"

namespace orchard::metal {

class Pipeline final : public device::Pipeline {
 public:
  Pipeline(NS::SharedPtr<MTL::ComputePipelineState> state, std::string name)
      : state_(std::move(state)),
        name_(std::move(name)),
        max_threads_(
            static_cast<uint32_t>(state_->maxTotalThreadsPerThreadgroup())) {}

  uint32_t max_threads_per_threadgroup() const override { return max_threads_; }
  MTL::ComputePipelineState* state() const { return state_.get(); }
  const std::string& name() const { return name_; }

 private:
  NS::SharedPtr<MTL::ComputePipelineState> state_;
  std::string name_;
  uint32_t max_threads_;  // asked once: each plan and each launch compares
};

// The newest language version that the kernels are written for and the running
// system has; Error(unsupported) before macOS 13.  Pinned, because Metal's own
// default moves with the system.
uint32_t language_version();

// By content, safe under threads: threads that ask for one kernel compile it
// once, different kernels compile at the same time.  A failure is not kept.
class PipelineCache {
 public:
  std::shared_ptr<const Pipeline> get(MTL::Device* device,
                                      const device::PipelineRequest& request);

 private:
  struct Entry {
    std::mutex mutex;
    std::shared_ptr<const Pipeline> pipeline;
  };
  std::shared_ptr<Entry> entry(const device::PipelineRequest& request);

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
};

}  // namespace orchard::metal
