// tests/simulator/kernels/refused_signatures.metal: arguments of kernels that
// Apple's compiler refuses; each macro switches one mistake on.
#include <metal_stdlib>
using namespace metal;

struct Params {
  int count;
  float scale;
};
constant constexpr int kSlot = 40;

#ifdef RETURNS_VALUE
#define RESULT float
#else
#define RESULT void
#endif

#ifdef OVERLOADED
kernel void refused(device float* y [[buffer(0)]]) {}
#endif
#ifdef CALLS_KERNEL
kernel void other(device float* y) {}
#endif

kernel RESULT refused(device float* x [[buffer(0)]],
#ifdef SLOT_31
                      device float* y [[buffer(31)]],
#endif
#ifdef SLOT_NEGATIVE
                      device float* y [[buffer(-1)]],
#endif
#ifdef SLOT_NAMED
                      device float* y [[buffer(kSlot)]],
#endif
#ifdef SLOT_TWICE
                      device float* y [[buffer(2 - 2)]],
#endif
#ifdef SLOT_MISSING
                      device float* y [[buffer]],
#endif
#ifdef THREADGROUP_SLOT_TWICE
                      threadgroup float* y [[threadgroup(1)]],
                      threadgroup float* z [[threadgroup(1)]],
#endif
#ifdef SCALAR_AS_SAMPLER
                      int n [[sampler(0)]],
#endif
#ifdef SCALAR_IN_BUFFER
                      uint n [[buffer(1)]],
#endif
#ifdef SCALAR_IN_THREADGROUP
                      int n [[threadgroup(0)]],
#endif
#ifdef SCALAR_ALONE
                      int n,
#endif
#ifdef STRUCT_ALONE
                      Params p,
#endif
#ifdef MISSPELT
                      uint n [[thread_postion_in_grid]],
#endif
#ifdef FOREIGN_ATTRIBUTE
                      uint n [[vendor::thread_position_in_grid]],
#endif
#ifdef THREADGROUP_IN_BUFFER
                      threadgroup float* y [[buffer(1)]],
#endif
#ifdef THREAD_IN_BUFFER
                      thread float* y [[buffer(1)]],
#endif
#ifdef DEVICE_IN_THREADGROUP
                      device float* y [[threadgroup(0)]],
#endif
#ifdef THREAD_ALONE
                      thread float* y,
#endif
#ifdef POINTER_WITHOUT_SPACE
                      float* y [[buffer(1)]],
#endif
#ifdef OTHER_STAGE
                      uint n [[vertex_id]],
#endif
#ifdef TWO_ATTRIBUTES
                      device float* y [[buffer(1), threadgroup(0)]],
#endif
#ifdef REFERENCE_TO_INPUT
                      constant uint& n [[threads_per_grid]],
#endif
#ifdef FLOAT_INPUT
                      float n [[threads_per_simdgroup]],
#endif
#ifdef SIGNED_INPUT
                      int n [[thread_index_in_threadgroup]],
#endif
#ifdef VECTOR_INDEX
                      uint2 n [[simdgroup_index_in_threadgroup]],
#endif
#ifdef FOUR_COMPONENTS
                      uint4 n [[threads_per_threadgroup]],
#endif
#ifdef SCALAR_AND_VECTOR
                      uint n [[threads_per_threadgroup]],
#endif
#ifdef TWO_AND_THREE
                      uint2 n [[threadgroups_per_grid]],
#endif
#ifdef GRID_TYPES
                      ushort3 n [[threads_per_grid]],
#endif
#ifdef GROUP_TYPES
                      ushort3 n [[thread_position_in_threadgroup]],
                      uint3 m [[threads_per_threadgroup]],
#endif
#ifdef SIMD_TYPES
                      ushort n [[thread_index_in_simdgroup]],
                      uint m [[simdgroup_index_in_threadgroup]],
#endif
#ifdef INDEX_TYPE
                      uint3 n [[thread_position_in_threadgroup]],
                      ushort m [[thread_index_in_threadgroup]],
#endif
                      uint3 i [[thread_position_in_grid]]
#ifdef VARIADIC
                      ,
                      ...
#endif
) {
  x[i.x] = 1.0f;
#ifdef CALLS_KERNEL
  other(x);
#endif
#ifdef RETURNS_VALUE
  return 1.0f;
#endif
}

#ifdef INSTANCE_OF_NONE
template
    [[host_name("other")]] kernel void refused<float>(device float*, uint3);
#endif

#ifdef CALLS_KERNEL_TEMPLATE
template <class T>
kernel void called(device T* x [[buffer(0)]]) {
  x[0] = T(1);
}
kernel void calls(device float* x [[buffer(0)]]) { called<float>(x); }
#endif
#ifdef CONSTANT_WITHOUT_INDEX
constant int unnumbered [[function_constant]];
#endif
#ifdef NOEXCEPT_OPERATOR
constant constexpr bool throws_nothing = noexcept(1 + 1);
#endif
