// tests/simulator/kernels/chain.metal: sixteen multiplies in a row, elements
// handled in between; for schedules and lane switches.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

kernel void chain(device const float* a [[buffer(0)]],
                  device float* out [[buffer(1)]],
                  uint group [[threadgroup_position_in_grid]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                  uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_float8x8 x, acc[2];
  simdgroup_load(x, a, 8);
  for (int i = 0; i < 2; ++i) {
    acc[i] = make_filled_simdgroup_matrix<float, 8, 8>(float(simdgroup + i));
  }
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < 2; ++i) {
      simdgroup_multiply_accumulate(acc[i], x, x, acc[i]);
      simdgroup_multiply_accumulate(acc[i], acc[i], x, acc[i]);
    }
    acc[0].thread_elements()[0] *= 0.5f;
    acc[1].thread_elements()[1] += simd_sum(acc[0].thread_elements()[0]);
  }
  out += (group * 4 + simdgroup) * 128;
  simdgroup_store(acc[0], out, 8);
  simdgroup_store(acc[1], out + 64, 8);
}
