// csrc/device/metal/device.cpp: a GPU: its limits, its pipelines, and launches
// encoded into the caller's stream.
#include <objc/runtime.h>

#include <atomic>
#include <map>
#include <set>

#include "device/longest.h"
#include "device/metal/apple.h"
#include "device/metal/layout_probe.h"
#include "device/metal/metal.h"
#include "device/metal/pipeline.h"

namespace orchard::metal {
namespace {

using device::Argument;
using device::Launch;

constexpr size_t kMaxInlineBytes = 4096;  // of setBytes
constexpr uint32_t kBufferSlots = 31;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::device, "[metal] " + what);
}

// metal-cpp names it from macOS 26's headers on; builds for macOS 13 have older
// ones.
constexpr auto kGpuFamilyApple10 = static_cast<MTL::GPUFamily>(1010);

device::Family family_of(MTL::Device* device) {
  if (device->supportsFamily(kGpuFamilyApple10)) return device::Family::c;
  if (device->supportsFamily(MTL::GPUFamilyApple9)) return device::Family::b;
  if (device->supportsFamily(MTL::GPUFamilyApple7)) return device::Family::a;
  throw Error(ErrorKind::unsupported,
              "[metal] needs an Apple GPU of family 7 (M1) or newer, got " +
                  to_std(device->name()));
}

device::Limits limits_of(MTL::Device* device) {
  device::Limits limits;
  limits.family = family_of(device);
  limits.max_threadgroup_bytes =
      static_cast<uint32_t>(device->maxThreadgroupMemoryLength());
  limits.max_threads_per_threadgroup =
      static_cast<uint32_t>(device->maxThreadsPerThreadgroup().width);
  limits.language_version = language_version();
  limits.working_set_bytes = device->recommendedMaxWorkingSetSize();
  limits.has_bfloat = limits.language_version >= MTL::LanguageVersion3_1;
  return limits;
}

// What the GPU reported after submit() had returned, failures and time, and
// which command buffers will tell.  Handlers on Metal's threads hold it, and
// may outlive a test's device.
class GpuReport {
 public:
  // False if it is watched already: one handler a command buffer is enough.
  bool start_watching(const void* command_buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return watched_.insert(command_buffer).second;
  }
  void stop_watching(const void* command_buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    watched_.erase(command_buffer);
  }
  void set(const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (text_.empty()) text_ = text;
    is_set_ = true;
  }
  void add_seconds(double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    seconds_ += seconds;
  }
  double seconds() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seconds_;
  }
  // Reports once: the device stays usable.
  void rethrow() {
    if (!is_set_.exchange(false)) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::string text = std::exchange(text_, {});
    refuse(
        "a command buffer with our launches failed on the GPU, so results "
        "since then are not valid: " +
        text);
  }

 private:
  std::atomic<bool> is_set_ = false;
  std::mutex mutex_;
  std::string text_;
  double seconds_ = 0.0;
  std::set<const void*> watched_;
};

// A handler's hold on its command buffer.  Goes with the handler, which a
// buffer that is never committed drops without calling it: then another buffer
// may get the address.
class Watch {
 public:
  Watch(std::shared_ptr<GpuReport> report, const void* command_buffer)
      : report_(std::move(report)), command_buffer_(command_buffer) {}
  ~Watch() { report_->stop_watching(command_buffer_); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void completed(MTL::CommandBuffer* done) const {
    report_->add_seconds(done->GPUEndTime() - done->GPUStartTime());
    if (done->status() != MTL::CommandBufferStatusError) return;
    const AutoreleaseScope scope;
    report_->set(to_std(done->error()));
  }

 private:
  std::shared_ptr<GpuReport> report_;
  const void* command_buffer_;
};

// PyTorch's command buffer is an MPSCommandBuffer: one object, under which the
// Metal ones change whenever somebody commits and goes on.  Those are watched.
class Lent : public NS::Object {
 public:
  static void* under(void* command_buffer) {
    const SEL root = sel_registerName("rootCommandBuffer");
    return respondsToSelector(command_buffer, root)
               ? sendMessage<void*>(command_buffer, root)
               : command_buffer;
  }
};

void watch(void* lent, const std::shared_ptr<GpuReport>& report) {
  void* const command_buffer = Lent::under(lent);
  if (!report->start_watching(command_buffer)) return;
  const auto held = std::make_shared<const Watch>(report, command_buffer);
  const MTL::HandlerFunction handler = [held](MTL::CommandBuffer* done) {
    held->completed(done);
  };
  static_cast<MTL::CommandBuffer*>(command_buffer)
      ->addCompletedHandler(handler);
}

void encode(MTL::ComputeCommandEncoder* encoder, const Launch& launch) {
  const auto& pipeline = static_cast<const Pipeline&>(*launch.pipeline);
  encoder->setComputePipelineState(pipeline.state());
  for (const Argument& argument : launch.arguments) {
    if (!argument.bytes.empty()) {
      encoder->setBytes(argument.bytes.data(), argument.bytes.size(),
                        argument.index);
      continue;
    }
    encoder->setBuffer(static_cast<MTL::Buffer*>(argument.view.handle),
                       argument.view.offset_bytes, argument.index);
  }
  if (launch.threadgroup_bytes != 0) {
    encoder->setThreadgroupMemoryLength(launch.threadgroup_bytes, 0);
  }
  const auto& groups = launch.threadgroups;
  const auto& threads = launch.threads_per_threadgroup;
  encoder->dispatchThreadgroups(
      MTL::Size::Make(groups[0], groups[1], groups[2]),
      MTL::Size::Make(threads[0], threads[1], threads[2]));
}

class Device final : public device::Device {
 public:
  Device(NS::SharedPtr<MTL::Device> device, EncoderSource& source)
      : device_(std::move(device)), source_(source) {
    name_ = to_std(device_->name());
    limits_ = limits_of(device_.get());
  }

  std::string name() const override { return name_; }
  const device::Limits& limits() const override { return limits_; }

  std::shared_ptr<const device::Pipeline> pipeline(
      const device::PipelineRequest& request) override {
    {
      const std::lock_guard<std::mutex> lock(probe_mutex_);
      if (!is_probed_) probe();
    }
    return cache_.get(device_.get(), request);
  }

  void submit(std::span<const Launch> launches) override {
    rethrow();
    for (const Launch& launch : launches) check(launch);
    source_.run([&](const OpenEncoder& open) {
      const AutoreleaseScope scope;
      MTL::ComputeCommandEncoder* encoder = begin(open);
      for (const Launch& launch : launches) {
        if (must_commit_before(launch)) encoder = begin(source_.commit());
        encode(encoder, launch);
        order(encoder);
      }
    });
  }

  // From the first time on that somebody asks, also where the stream's owner
  // watches for failures himself.
  double gpu_seconds() override {
    is_timed_ = true;
    return report_->seconds();
  }

  void rethrow() { report_->rethrow(); }

 private:
  // A serial encoder runs dispatches one after the other, as every PyTorch up
  // to 2.15 has it.  A concurrent one orders only what a barrier does.
  static void order(MTL::ComputeCommandEncoder* encoder) {
    if (encoder->dispatchType() == MTL::DispatchTypeConcurrent) {
      encoder->memoryBarrier(MTL::BarrierScopeBuffers);
    }
  }

  MTL::ComputeCommandEncoder* begin(const OpenEncoder& open) {
    if (is_timed_ || !source_.reports_gpu_errors()) {
      watch(open.command_buffer, report_);
    }
    auto* encoder =
        static_cast<MTL::ComputeCommandEncoder*>(open.compute_encoder);
    order(encoder);  // what PyTorch encoded before us
    return encoder;
  }

  // Counted over all calls: the stream's owner commits when it sees fit, and
  // does not say so.
  bool must_commit_before(const Launch& launch) {
    const std::lock_guard<std::mutex> lock(seconds_mutex_);
    const bool is_full =
        seconds_ > 0.0 && seconds_ + launch.seconds > device::longest_seconds();
    seconds_ = (is_full ? 0.0 : seconds_) + launch.seconds;
    return is_full;
  }

  void probe() {
    check_lane_layout(device_.get(),
                      *cache_.get(device_.get(), lane_layout_request()));
    is_probed_ = true;
  }

  // Metal's own checks exist only in its debug layer: without it a wrong
  // launch is undefined.
  void check(const Launch& launch) const {
    const auto* pipeline = dynamic_cast<const Pipeline*>(launch.pipeline.get());
    if (pipeline == nullptr) refuse("a launch needs a pipeline of this device");
    // Called for each launch: no text before there is something to say.
    const auto wrong = [&](const std::string& what) {
      refuse(pipeline->name() + ": " + what);
    };
    uint64_t threads = 1;
    for (const uint32_t n : launch.threads_per_threadgroup) threads *= n;
    const uint32_t most = pipeline->max_threads_per_threadgroup();
    if (threads == 0 || threads > most) {
      wrong(std::to_string(threads) +
            " threads per threadgroup, the compiled kernel allows 1 to " +
            std::to_string(most));
    }
    if (launch.threadgroup_bytes > limits_.max_threadgroup_bytes ||
        launch.threadgroup_bytes % 16 != 0) {
      wrong(std::to_string(launch.threadgroup_bytes) +
            " threadgroup bytes, expected a multiple of 16 up to " +
            std::to_string(limits_.max_threadgroup_bytes));
    }
    for (const Argument& argument : launch.arguments) {
      const std::string problem = problem_with(argument);
      if (problem.empty()) continue;
      wrong("buffer " + std::to_string(argument.index) + problem);
    }
  }

  static std::string problem_with(const Argument& argument) {
    if (argument.index >= kBufferSlots) return ", Metal has slots 0 to 30";
    if (argument.bytes.size() > kMaxInlineBytes) {
      return " has " + std::to_string(argument.bytes.size()) +
             " inline bytes, at most 4096 can be";
    }
    if (argument.bytes.empty() && argument.view.handle == nullptr) {
      return " is bound to nothing";
    }
    return {};
  }

  NS::SharedPtr<MTL::Device> device_;
  EncoderSource& source_;
  std::string name_;
  device::Limits limits_;
  PipelineCache cache_;
  std::mutex seconds_mutex_;
  double seconds_ = 0.0;  // of our launches since we committed
  std::atomic<bool> is_timed_ = false;
  std::mutex probe_mutex_;
  bool is_probed_ = false;
  std::shared_ptr<GpuReport> report_ = std::make_shared<GpuReport>();
};

// The one object for a GPU.  Never freed: tensors and handlers on Metal's
// threads may outlive static destruction.
Device& registered(MTL::Device* device, EncoderSource& source) {
  static std::mutex mutex;
  static auto& devices = *new std::map<uint64_t, std::unique_ptr<Device>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Device>& found = devices[device->registryID()];
  if (!found) {
    found = std::make_unique<Device>(NS::RetainPtr(device), source);
  }
  return *found;
}

}  // namespace

device::Device& device_of(const void* buffer, EncoderSource& source) {
  const AutoreleaseScope scope;
  return registered(static_cast<const MTL::Buffer*>(buffer)->device(), source);
}

device::Device& system_device(EncoderSource& source) {
  const AutoreleaseScope scope;
  const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
  if (!device) {
    throw Error(ErrorKind::device,
                "[metal] this process sees no Metal device: a virtual machine "
                "or a remote session without a GPU?");
  }
  return registered(device.get(), source);
}

void throw_gpu_error(device::Device& device) {
  static_cast<Device&>(device).rethrow();
}

}  // namespace orchard::metal
