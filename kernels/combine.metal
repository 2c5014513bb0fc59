// kernels/combine.metal: what decode.metal left of each row's splits
// becomes the row of out and its log-sum-exp, added in their order.
//
// Grid: (ceil(group * len_q / SIMDGROUPS), heads_kv, batch); one simdgroup a
// row.
#include "tile/prelude.h"

#if HAS_SINKS
#define SINKS_ARGUMENT device const float *sinks [[buffer(SLOT_SINKS)]],
#else
#define SINKS_ARGUMENT
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void combine(
    device const float* split_out [[buffer(SLOT_SPLIT_OUT)]],
    device const float2* split_stats [[buffer(SLOT_SPLIT_STATS)]],
    device ELEM* out [[buffer(SLOT_OUT)]],
    device float* lse [[buffer(SLOT_LSE)]],
    SINKS_ARGUMENT constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  int rows = p.group * p.len_q;
  Place place = place_of(p, group, simdgroup, lane);
  int row = place.grid_x * SIMDGROUPS + int(simdgroup);
  if (row >= rows) return;  // a whole simdgroup leaves
  int head_kv = place.grid_y;
  int batch = place.grid_z;
  int head = head_kv * p.group + row % p.group;
  int position = row / p.group;
  long first =
      (long(batch) * p.heads_q / p.group + head_kv) * p.splits * rows + row;

  float largest = LOWEST;
  for (int split = 0; split < p.splits; ++split) {
    largest = max(largest, split_stats[first + long(split) * rows].x);
  }
  float total = 0.0f;
#if HAS_SINKS
  // One more key without a value.
  float sink = sinks[head];
  if (!is_minus_infinity(sink)) {
    largest = max(largest, sink * SCORE_UNIT);
    total = weight_of(sink * SCORE_UNIT - largest);
  }
#endif
  for (int split = 0; split < p.splits; ++split) {
    float2 x = split_stats[first + long(split) * rows];
    total += x.y * weight_of(x.x - largest);
  }
  bool is_empty = total == 0.0f;
  float inverse = is_empty ? 0.0f : 1.0f / total;
  out = head_of(out, p.out, batch, head, position);
  for (int d = int(lane); d < HEAD_DIM_V; d += 32) {
    float sum = 0.0f;
    for (int split = 0; split < p.splits; ++split) {
      long index = first + long(split) * rows;
      sum += split_out[index * HEAD_DIM_V + d] *
             weight_of(split_stats[index].x - largest);
    }
    OPERAND x = OPERAND(sum * inverse);
    Wide<1>::store(out + d, &x);
  }
  if (lane == 0) {
    lse[row_of_all(p, batch, head, position)] =
        is_empty ? as_type<float>(0xff800000u)  // -inf, as bits
                 : fma(largest, SCORE_TO_NATURAL, LN2 * precise::log2(total));
  }
}
