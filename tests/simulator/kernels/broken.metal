// tests/simulator/kernels/broken.metal: one mistake a kernel, for the checks.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

kernel void read_past_end(device const float* x [[buffer(0)]],
                          device float* y [[buffer(1)]],
                          constant uint& n [[buffer(2)]],
                          uint i [[thread_position_in_grid]]) {
  y[i] = x[i + n];  // n is the length
}

kernel void write_past_end(device float* y [[buffer(0)]],
                           constant uint& distance [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
  y[i + distance] = 1.0f;
}

kernel void divergent_barrier(device float* y [[buffer(0)]],
                              uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = 1.0f;
}

kernel void divergent_lanes(device float* y [[buffer(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  float v = float(i);
  if (i % 2 == 0) {
    simdgroup_barrier(mem_flags::mem_none);
  } else {
    simdgroup_barrier(mem_flags::mem_none);
  }
  y[i] = v;
}

kernel void divergent_multiply(device float* y [[buffer(0)]],
                               uint i [[thread_index_in_threadgroup]]) {
  simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_multiply_accumulate(m, m, m, m);
  if (i < 16) simdgroup_multiply_accumulate(m, m, m, m);
  y[i] = m.thread_elements()[0];
}

kernel void too_much_memory(device float* y [[buffer(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[8193];
  tile[i] = 1.0f;
  y[i] = tile[i];
}

kernel void uninitialized_memory(device float* y [[buffer(0)]],
                                 uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  if (i != 5) tile[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = tile[i] * 2.0f;
}

kernel void masked_uninitialized(device float* y [[buffer(0)]],
                                 uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  if (i < 32) tile[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint mask = i < 32 ? ~0u : 0u;
  y[i] = as_type<float>(as_type<uint>(tile[i]) & mask);
}

kernel void misaligned_vector(device const float* x [[buffer(0)]],
                              device float4* y [[buffer(1)]],
                              uint i [[thread_index_in_threadgroup]]) {
  y[i] = *(device const float4*)(x + i + 1);
}

kernel void two_groups_write(device float* y [[buffer(0)]],
                             uint group [[threadgroup_position_in_grid]]) {
  y[0] = float(group);
}

kernel void writes_input(device float* x [[buffer(0)]],
                         device float* y [[buffer(1)]]) {
  x[0] = 1.0f;
  y[0] = 1.0f;
}

kernel void lanes_race(device float* y [[buffer(0)]],
                       uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float tile[32];
  tile[lane] = float(lane);
  y[lane] = tile[31 - lane];
}

kernel void memory_past_end(device float* y [[buffer(0)]],
                            threadgroup float* tile [[threadgroup(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  tile[i] = 1.0f;
  y[i] = tile[i];
}

// The third of four threadgroups never ends.
kernel void endless(device float* y [[buffer(0)]],
                    uint group [[threadgroup_position_in_grid]]) {
  device atomic_uint* flag = (device atomic_uint*)y;
  while (group == 2 && atomic_load_explicit(flag, memory_order_relaxed) == 0) {
  }
}

kernel void endless_barriers(device float* y [[buffer(0)]],
                             uint group [[threadgroup_position_in_grid]]) {
  while (group == 2) threadgroup_barrier(mem_flags::mem_device);
}

kernel void endless_sums(device float* y [[buffer(0)]],
                         uint group [[threadgroup_position_in_grid]]) {
  while (group == 2 && simd_sum(y[0]) == 0.0f) {
  }
}
