// tests/metal/cuda/metal_on_cuda.h: the part of Metal's standard library that
// the kernels use, for nvcc.  A simdgroup is a warp, threadgroup memory is
// shared memory, an 8x8 matrix lies in its lanes as it does on Apple's chips.
//
// Hardware lane 4 * row + pair runs the Metal lane that holds elements
// (row, 2 * pair) and (row, 2 * pair + 1) of a matrix.  Both numberings are
// permutations of five bits, and this one is that of NVIDIA's own fragments:
// left operands and accumulators need no data movement.
#pragma once

typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned long ulong;

template <class To, class From>
__device__ __forceinline__ To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// 16 bits, rounded to nearest even from float.
struct half {
  unsigned short bits;
  half() = default;
  __device__ __forceinline__ explicit half(float x) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  }
  __device__ __forceinline__ operator float() const {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};

struct bfloat {
  unsigned short bits;
  bfloat() = default;
  __device__ __forceinline__ explicit bfloat(float x) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  }
  __device__ __forceinline__ operator float() const {
    return __uint_as_float(uint(bits) << 16);
  }
};

namespace metal {

template <class T, int N>
struct vec;

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  __device__ __forceinline__ vec(T x, T y) : x(x), y(y) {}
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  vec() = default;
  __device__ __forceinline__ vec(T x, T y, T z) : x(x), y(y), z(z) {}
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  __device__ __forceinline__ vec(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}
};

__device__ __forceinline__ int clamp(int x, int low, int high) {
  return min(max(x, low), high);
}

namespace fast {
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
}  // namespace fast

namespace precise {
__device__ __forceinline__ float log2(float x) { return log2f(x); }
__device__ __forceinline__ float tanh(float x) { return tanhf(x); }
}  // namespace precise

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

// Without barriers the race checker must complain (sanitized.py).
__device__ __forceinline__ void threadgroup_barrier(mem_flags) {
#ifndef METAL_ON_CUDA_WITHOUT_BARRIERS
  __syncthreads();
#endif
}

// Bit b of a Metal lane's number is this bit of the hardware's.
__host__ __device__ constexpr int hardware_bit(int b) {
  return b == 1 ? 2 : b == 2 ? 3 : b == 3 ? 1 : b;
}
__host__ __device__ constexpr uint hardware_lane(uint lane) {
  uint found = 0;
  for (int b = 0; b < 5; ++b) found |= (lane >> b & 1) << hardware_bit(b);
  return found;
}
__host__ __device__ constexpr uint metal_lane(uint hardware) {
  uint found = 0;
  for (int b = 0; b < 5; ++b) found |= (hardware >> hardware_bit(b) & 1) << b;
  return found;
}
// Row and pair of a Metal lane, as in kernels/tile/lane.h.
constexpr bool is_layout_right() {
  for (uint lane = 0; lane < 32; ++lane) {
    const uint row =
        (lane >> 4 & 1) * 4 + (lane >> 2 & 1) * 2 + (lane >> 1 & 1);
    const uint pair = (lane >> 3 & 1) * 2 + (lane & 1);
    if (hardware_lane(lane) != 4 * row + pair) return false;
    if (metal_lane(hardware_lane(lane)) != lane) return false;
  }
  return true;
}
static_assert(is_layout_right(), "hardware lanes must be 4 * row + pair");

inline constexpr uint kAllLanes = 0xffffffffu;

template <class T>
__device__ __forceinline__ T simd_shuffle_xor(T x, uint mask) {
  return __shfl_xor_sync(kAllLanes, x, hardware_lane(mask));
}

template <class T>
__device__ __forceinline__ T select(T a, T b, bool is_b) {
  return is_b ? b : a;
}

__device__ __forceinline__ bool simd_any(bool x) {
  return __any_sync(kAllLanes, x);
}

__device__ __forceinline__ float simd_sum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, mask);
  }
  return x;
}

template <class T, int Rows, int Columns>
struct alignas(2 * sizeof(T)) simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "Metal has matrices of 8x8");
  T elements[2];
  simdgroup_matrix() = default;
  __device__ __forceinline__ T (&thread_elements())[2] { return elements; }
  __device__ __forceinline__ uint bits() const {
    return uint(elements[0].bits) | uint(elements[1].bits) << 16;
  }
};

template <class T, int Rows, int Columns>
__device__ __forceinline__ simdgroup_matrix<T, Rows, Columns>
make_filled_simdgroup_matrix(T x) {
  simdgroup_matrix<T, Rows, Columns> filled;
  filled.elements[0] = filled.elements[1] = x;
  return filled;
}

template <class T>
__device__ __forceinline__ void simdgroup_load(simdgroup_matrix<T, 8, 8>& to,
                                               const T* from,
                                               ulong elements_per_row) {
  const uint lane = threadIdx.x & 31;
  from += lane / 4 * elements_per_row + lane % 4 * 2;
  to.elements[0] = from[0];
  to.elements[1] = from[1];
}

// NVIDIA's right operand is the transpose of Metal's.
__device__ __forceinline__ uint transposed(uint bits) {
  uint found;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
      : "=r"(found)
      : "r"(bits));
  return found;
}

typedef simdgroup_matrix<float, 8, 8> matrix_accumulator;

// The unit multiplies 16 rows: what is in the upper eight does not matter, so
// no register is spent on them.
#define METAL_ON_CUDA_MULTIPLY(T, type)                                     \
  __device__ __forceinline__ void simdgroup_multiply_accumulate(            \
      matrix_accumulator& d, const simdgroup_matrix<T, 8, 8>& a,            \
      const simdgroup_matrix<T, 8, 8>& b, const matrix_accumulator& c) {    \
    asm("{.reg .b32 any; .reg .f32 some, low, high;"                        \
        "mma.sync.aligned.m16n8k8.row.col.f32." type "." type               \
        ".f32 {%0, %1, low, high}, {%2, any}, {%3}, {%4, %5, some, some};}" \
        : "=f"(d.elements[0]), "=f"(d.elements[1])                          \
        : "r"(a.bits()), "r"(transposed(b.bits())), "f"(c.elements[0]),     \
          "f"(c.elements[1]));                                              \
  }
METAL_ON_CUDA_MULTIPLY(half, "f16")
METAL_ON_CUDA_MULTIPLY(bfloat, "bf16")

// No matrix unit there multiplies whole floats: lanes pass elements around.
__device__ __forceinline__ void simdgroup_multiply_accumulate(
    matrix_accumulator& d,
    const matrix_accumulator& a,
    const matrix_accumulator& b,
    const matrix_accumulator& c) {
  const uint lane = threadIdx.x & 31;
  float sums[2] = {c.elements[0], c.elements[1]};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float left =
        __shfl_sync(kAllLanes, a.elements[k % 2], (lane & 28) + k / 2);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float right =
          __shfl_sync(kAllLanes, b.elements[e], 4 * k + (lane & 3));
      sums[e] = fmaf(left, right, sums[e]);
    }
  }
  d.elements[0] = sums[0];
  d.elements[1] = sums[1];
}

}  // namespace metal

// What a launch binds: buffers by slot, and blocks of bytes in order of slots.
struct Bindings {
  void* buffers[31];
  alignas(16) unsigned char bytes[4096 - 31 * 8 - 8];
};

namespace orchard::sim::entry {

// Becomes whatever pointer the kernel's parameter is.
struct pointer {
  void* address;
  template <class T>
  __device__ __forceinline__ operator T*() const {
    return static_cast<T*>(address);
  }
};

struct reference {
  const unsigned char* address;
  template <class T>
  __device__ __forceinline__ operator const T&() const {
    return *reinterpret_cast<const T*>(address);
  }
};

// A threadgroup variable.
template <class T, int Number>
__device__ __forceinline__ T* local() {
  __shared__ T variable;
  return &variable;
}

// Attributes, by the names that csrc/device/sim/compile/translate.cpp gives
// them.
typedef metal::vec<uint, 3> position;
__device__ __forceinline__ position threadgroup_position_in_grid() {
  return {blockIdx.x, blockIdx.y, blockIdx.z};
}
__device__ __forceinline__ position threadgroups_per_grid() {
  return {gridDim.x, gridDim.y, gridDim.z};
}
__device__ __forceinline__ uint simdgroup_index_in_threadgroup() {
  return threadIdx.x / 32;
}
__device__ __forceinline__ uint thread_index_in_simdgroup() {
  return metal::metal_lane(threadIdx.x & 31);
}

}  // namespace orchard::sim::entry

// Names that CUDA's own headers have taken.
#define float2 metal::vec<float, 2>
#define float4 metal::vec<float, 4>
#define uint2 metal::vec<uint, 2>
#define uint3 metal::vec<uint, 3>
#define uint4 metal::vec<uint, 4>
