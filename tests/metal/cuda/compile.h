// tests/metal/cuda/compile.h: from a kernel's Metal text to machine code for an
// NVIDIA GPU, by nvcc.
#pragma once

#include <string>

#include "device/device.h"

namespace orchard::cuda {

// The bytes that a launch may bind (Bindings, metal_on_cuda.h): blocks of this
// size, in the order of their slots.
inline constexpr size_t kMaxBytes = 4096 - 31 * 8 - 8;
inline constexpr size_t kBlockBytes = 1024;

// The text of a CUDA kernel named as `request.entry`, followed by "_entry".
std::string cuda_source(const device::PipelineRequest& request);

// The path of a compiled file in the cache folder.  `architecture` as nvcc
// names it: "sm_90".  Error(compile) with nvcc's own words.
std::string compile(const device::PipelineRequest& request,
                    const std::string& architecture);

}  // namespace orchard::cuda
