// tests/simulator/kernels/counted.metal: a known number of everything.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

kernel void counted(device const float4* x [[buffer(0)]],
                    device float* y [[buffer(1)]],
                    constant float& a [[buffer(2)]],
                    uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  float4 v = x[i];
  tile[i] = v.x + v.w;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float s = tile[i ^ 32];
  s = simd_shuffle_xor(s, 1) + simd_sum(s);
  if (simd_any(s > 1e30f)) return;
  simdgroup_barrier(mem_flags::mem_none);
  simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_multiply_accumulate(m, m, m, m);
  simdgroup_multiply_accumulate(m, m, m, m);
  y[i] = a * exp2(s) + m.thread_elements()[0];
}
