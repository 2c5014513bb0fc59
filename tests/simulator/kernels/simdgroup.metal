// tests/simulator/kernels/simdgroup.metal: shuffles, votes and reductions, one
// row of 32 results each.
#include <metal_stdlib>
using namespace metal;

kernel void simdgroup_functions(device const float* x [[buffer(0)]],
                                device float* out [[buffer(1)]],
                                uint lane [[thread_index_in_simdgroup]]) {
  float v = x[lane];
  device float* to = out + lane;
  to[0] = simd_shuffle(v, ushort(31 - lane));
  to[32] = simd_shuffle_xor(v, 5);
  to[64] = simd_shuffle_up(v, 3);
  to[96] = simd_shuffle_down(v, 3);
  to[128] = simd_broadcast(v, 7);
  to[160] = simd_sum(v);
  to[192] = simd_max(v);
  to[224] = simd_min(v);
  to[256] = simd_prefix_inclusive_sum(v);
  to[288] = simd_prefix_exclusive_sum(v);
  to[320] = float(ulong(simd_ballot(v > 16.0)));
  to[352] = float(simd_any(v > 30.0)) + 2.0 * float(simd_all(v > 30.0));
  to[384] = quad_sum(v);
  to[416] = simd_shuffle_and_fill_down(v, v - 100.0f, ushort(3));
}

// What is left of a simdgroup when some lanes have returned.
kernel void active_lanes(device const float* x [[buffer(0)]],
                         device float* out [[buffer(1)]],
                         uint at [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
  if (at % 3 == 0) return;
  float v = x[at];
  device float* to = out + at * 11;
  to[0] = simd_sum(v);
  to[1] = simd_max(v);
  to[2] = simd_min(v);
  to[3] = simd_prefix_inclusive_sum(v);
  to[4] = simd_prefix_exclusive_sum(v);
  to[5] = simd_broadcast_first(v);
  to[6] = float(simd_is_first());
  to[7] = float(popcount(uint(ulong(simd_active_threads_mask()))));
  to[8] = float(simd_all(lane % 3 != 5)) + 2.0 * float(simd_any(v < 0.0));
  if (at % 3 == 1) return;
  to[9] = quad_sum(v);
  to[10] = simd_sum(v);
}

// What nobody can do without the lane that has returned.
kernel void after_a_return(device float* x [[buffer(0)]],
                           uint lane [[thread_index_in_simdgroup]]) {
  if (lane == 5) return;
#ifdef MULTIPLY
  simdgroup_float8x8 a, b, c;
  simdgroup_load(a, x, 8);
  simdgroup_load(b, x, 8);
  simdgroup_multiply(c, a, b);
  simdgroup_store(c, x, 8);
#elif defined(SIMDGROUP_BARRIER)
  simdgroup_barrier(mem_flags::mem_none);
#else
  threadgroup_barrier(mem_flags::mem_threadgroup);
#endif
  x[lane] = 1.0f;
}
