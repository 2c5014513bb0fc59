// tests/simulator/kernels/reverse.metal: each threadgroup of 64 reverses its
// part. Without BARRIER it races.
#include <metal_stdlib>
using namespace metal;

#ifndef BARRIER
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#endif

kernel void reverse(device float* x [[buffer(0)]],
                    uint i [[thread_position_in_grid]],
                    uint local [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[local] = x[i];
  BARRIER;
  x[i] = tile[63 - local];
}
