// kernels/backward_prepare.metal: what the backward needs of each row:
// lse in base 2, and delta = sum over dimensions of grad_out * out.
//
// Grid: (ceil(len_q / SIMDGROUPS), heads_q, batch); one simdgroup a row.
#include "tile/prelude.h"

[[kernel, max_total_threads_per_threadgroup(32 * SIMDGROUPS)]] void
backward_prepare(device const ELEM* out [[buffer(SLOT_OUT)]],
                 device const float* lse [[buffer(SLOT_LSE)]],
                 device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
                 device float2* stats [[buffer(SLOT_STATS)]],
                 constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
                 uint3 group [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]]) {
  int row = int(group.x) * SIMDGROUPS + int(simdgroup);
  if (row >= p.len_q) return;  // a whole simdgroup leaves
  int head = int(group.y);
  int batch = int(group.z);
  out += batch * p.out.batch + head * p.out.head + row * p.out.row;
  grad_out +=
      batch * p.grad_out.batch + head * p.grad_out.head + row * p.grad_out.row;
  float delta = 0.0f;
  for (int d = int(lane) * VEC; d < HEAD_DIM_V; d += 32 * VEC) {
    ELEM x[VEC];
    ELEM g[VEC];
    Wide<VEC>::load(out + d, x);
    Wide<VEC>::load(grad_out + d, g);
#pragma clang loop unroll(full)
    for (int e = 0; e < VEC; ++e) delta = fma(float(x[e]), float(g[e]), delta);
  }
  delta = simd_sum(delta);
  if (lane == 0) {
    long index = (long(batch) * p.heads_q + head) * p.len_q + row;
    float x = lse[index];
    stats[index] = float2(x < MASKED_SCORE ? EMPTY_LSE : x * LOG2E, delta);
  }
}
