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
}
