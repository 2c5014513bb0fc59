// kernels/backward_prepare.metal: delta = sum over dimensions of
// grad_out * out, for each row; less the gradient of lse, if there is one.  A
// score's gradient is weight * (dp - delta), and lse's derivative by the score
// is the same weight.
//
// Grid: (ceil(len_q / SIMDGROUPS), heads_q, batch); one simdgroup a row.
#include "tile/prelude.h"

#if HAS_GRAD_LSE
#define GRAD_LSE_ARGUMENTS                                \
  device const float *grad_lse [[buffer(SLOT_GRAD_LSE)]], \
      device const float *lse [[buffer(SLOT_LSE)]],
#else
#define GRAD_LSE_ARGUMENTS
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_prepare(device const ELEM* out [[buffer(SLOT_OUT)]],
                 device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
                 device float* delta [[buffer(SLOT_DELTA)]],
                 GRAD_LSE_ARGUMENTS DOMAIN_ARGUMENTS constant AttentionParams& p
                 [[buffer(SLOT_PARAMS)]],
                 uint3 group [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]]) {
  GATHER_DOMAIN(tensors)
  Place place = place_of(p, group, simdgroup, lane);
  int row = place.grid_x * SIMDGROUPS + int(simdgroup);
  int head = place.grid_y;
  int batch = place.grid_z;
  Domain d = domain_of(p, tensors, batch);
  if (row >= d.len_q) return;  // a whole simdgroup leaves
  row += d.first_q;
  out = head_of(out, p.out, batch, head, row);
  grad_out = head_of(grad_out, p.grad_out, batch, head, row);
  float sum = 0.0f;
  for (int i = int(lane) * VEC; i < HEAD_DIM_V; i += 32 * VEC) {
    OPERAND x[VEC];
    OPERAND g[VEC];
    load_wide<VEC>(out + i, x);
    load_wide<VEC>(grad_out + i, g);
#pragma clang loop unroll(full)
    for (int e = 0; e < VEC; ++e) sum = fma(float(x[e]), float(g[e]), sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    long index = row_of_all(p, batch, head, row);
#if HAS_GRAD_LSE
    // The lse of nothing is -inf whatever the scores are, and what follows it
    // often has a gradient of NaN there.
    if (!is_minus_infinity(lse[index])) sum -= grad_lse[index];
#endif
    delta[index] = sum;
  }
}
