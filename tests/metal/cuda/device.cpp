// tests/metal/cuda/device.cpp: pipelines and launches through CUDA's driver.
#include "cuda/device.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "cuda/compile.h"

namespace orchard::cuda {
namespace {

using device::Argument;
using device::Launch;

// As metal_on_cuda.h declares it.
struct Bindings {
  std::array<CUdeviceptr, 31> buffers;
  alignas(16) std::array<std::byte, kMaxBytes> bytes;
};
static_assert(sizeof(Bindings) <= 4096, "the most that a launch may pass");

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  const char* text = nullptr;
  cuGetErrorString(result, &text);
  throw Error(ErrorKind::device, std::string("cuda: ") + what + ": " +
                                     (text ? text : "unknown error"));
}

// A thread that PyTorch has not used yet has no context.
void use_context() {
  CUcontext current = nullptr;
  check(cuInit(0), "cuInit");
  check(cuCtxGetCurrent(&current), "cuCtxGetCurrent");
  if (current != nullptr) return;
  check(cuDevicePrimaryCtxRetain(&current, 0), "cuDevicePrimaryCtxRetain");
  check(cuCtxSetCurrent(current), "cuCtxSetCurrent");
}

class CudaPipeline : public device::Pipeline {
 public:
  CudaPipeline(const std::string& path, const std::string& entry) {
    check(cuModuleLoad(&module_, path.c_str()), "cuModuleLoad");
    check(cuModuleGetFunction(&function_, module_, entry.c_str()),
          "cuModuleGetFunction");
    int threads = 0;
    check(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                             function_),
          "cuFuncGetAttribute");
    max_threads_ = static_cast<uint32_t>(threads);
  }
  uint32_t max_threads_per_threadgroup() const override { return max_threads_; }
  CUfunction function() const { return function_; }

 private:
  CUmodule module_ = nullptr;  // lives as long as the process
  CUfunction function_ = nullptr;
  uint32_t max_threads_ = 0;
};

// A block's place is its slot's rank, as compile.cpp has it.
size_t block_start(const Launch& launch, const Argument& block) {
  const auto before = std::ranges::count_if(launch.arguments, [&](auto& other) {
    return !other.bytes.empty() && other.index < block.index;
  });
  return static_cast<size_t>(before) * kBlockBytes;
}

Bindings bindings_of(const Launch& launch) {
  Bindings bindings{};
  for (const Argument& argument : launch.arguments) {
    if (argument.bytes.empty()) {
      bindings.buffers.at(argument.index) =
          reinterpret_cast<CUdeviceptr>(argument.view.handle) +
          argument.view.offset_bytes;
      continue;
    }
    const size_t start = block_start(launch, argument);
    if (argument.bytes.size() > kBlockBytes ||
        start + argument.bytes.size() > kMaxBytes) {
      throw Error(ErrorKind::device, "cuda: too many bytes for one launch");
    }
    std::ranges::copy(argument.bytes, bindings.bytes.data() + start);
  }
  return bindings;
}

class CudaDevice : public device::Device {
 public:
  CudaDevice() {
    use_context();
    CUdevice gpu = 0;
    check(cuCtxGetDevice(&gpu), "cuCtxGetDevice");
    std::array<char, 256> name{};
    check(cuDeviceGetName(name.data(), name.size(), gpu), "cuDeviceGetName");
    name_ = name.data();
    int major = 0, minor = 0;
    check(cuDeviceGetAttribute(
              &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, gpu),
          "cuDeviceGetAttribute");
    check(cuDeviceGetAttribute(
              &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, gpu),
          "cuDeviceGetAttribute");
    architecture_ = "sm_" + std::to_string(major) + std::to_string(minor);
  }

  std::string name() const override { return name_; }
  const device::Limits& limits() const override { return limits_; }

  std::shared_ptr<const device::Pipeline> pipeline(
      const device::PipelineRequest& request) override {
    use_context();
    // csrc/attention keeps what this returns: no cache is needed here.
    return std::make_shared<CudaPipeline>(
        compile(request, architecture_), std::string(request.entry) + "_entry");
  }

  void submit(std::span<const Launch> launches) override {
    use_context();
    for (const Launch& launch : launches) {
      Bindings bindings = bindings_of(launch);
      void* parameters[] = {&bindings};
      const auto& grid = launch.threadgroups;
      const auto& threads = launch.threads_per_threadgroup;
      check(cuLaunchKernel(
                static_cast<const CudaPipeline&>(*launch.pipeline).function(),
                grid[0], grid[1], grid[2], threads[0], threads[1], threads[2],
                launch.threadgroup_bytes, nullptr, parameters, nullptr),
            "cuLaunchKernel");
    }
  }

 private:
  device::Limits limits_;
  std::string name_;
  std::string architecture_;
};

}  // namespace

device::Device& system_device() {
  static auto* const device = new CudaDevice;
  return *device;
}

}  // namespace orchard::cuda
