// csrc/device/sim/msl/prelude.h: the simulator's metal_stdlib, put before the
// translated text of a kernel.
#pragma once
#include "abi.h"
#include "vector.h"
#if defined(__x86_64__)
#define MSL_X86 1
#endif

namespace metal {
namespace msl_abi = orchard::sim::abi;
template <class T>
struct atomic;
}  // namespace metal

#include "context.h"
#ifdef MSL_STRICT
#include "strict.h"
#endif
#include "math.h"
#include "entry.h"

// Address spaces are types of their own; they lower to ordinary memory.
#define device __attribute__((opencl_global_device))
#define constant const __attribute__((opencl_global_host))
#define threadgroup __attribute__((opencl_local))
#define thread

#include "library.h"
#include "matrices.h"
#include "simdgroup.h"
#include "matrix.h"
