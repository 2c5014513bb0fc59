// tests/simulator/kernels/banks.metal: each lane writes and reads one element
// of threadgroup memory, STRIDE elements from its neighbour's.
#include <metal_stdlib>
using namespace metal;

kernel void banks(device float* y [[buffer(0)]],
                  uint lane [[thread_index_in_simdgroup]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup ELEM tile[2][32 * STRIDE + 1];
  tile[simdgroup][lane * STRIDE] = ELEM(lane);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  ELEM x = tile[simdgroup][FROM];
  y[simdgroup * 32 + lane] = float(RESULT);
}
