// kernels/forward.metal: out = softmax(scores) v and its log-sum-exp, one pass
// over the keys with a running maximum (FlashAttention-2, algorithm 1;
// arXiv:2307.08691), a tile of rows per SPLIT simdgroups.  What a score is
// besides scale * q k^T: tile/score.h.
//
// Grid: (ceil(len_q / (ROWS * TILES)), heads_q, batch) threadgroups of
// 32 * SIMDGROUPS threads; row tiles run backwards, longest first when causal.
#define SCORE_FRAGMENTS (TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/attend.h"

#if HAS_SINKS
#define SINKS_ARGUMENT device const float *sinks [[buffer(SLOT_SINKS)]],
// A sink is a column without a value: it joins the row's maximum and total.
METAL_FUNC void add_sink(thread ForwardState& state, int t, float sink) {
  if (is_minus_infinity(sink)) return;  // no sink
  float largest = max(state.row_maximum[t], sink);
  float correction = weight_of(state.row_maximum[t] - largest);
  state.row_total[t] =
      state.row_total[t] * correction + weight_of(sink - largest);
  Values::scale(state.out + t * (SLICE_V / 8), correction);
  state.row_maximum[t] = largest;
}
#else
#define SINKS_ARGUMENT
#endif

#if SUMS_IN_PARTS
// Adds one part of the keys to those in memory (tile/parts.h), which first come
// to the maximum that rows have by now.  `out`: row 0 of the sequence.
METAL_FUNC void keep_part(thread ForwardState& state,
                          device ELEM* out,
                          constant AttentionParams& p,
                          int len_q,
                          int row0,
                          int base,
                          Lane at,
                          thread Kept& kept) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    float largest = state.row_maximum[t];
    kept.factor = weight_of(state.kept_maximum[t] - largest);
    state.kept_maximum[t] = largest;
    state.kept_total[t] =
        fma(state.kept_total[t], kept.factor, state.row_total[t]);
    state.row_total[t] = 0.0f;
    int row = row0 + 8 * t + at.row;
    if (row < len_q) {
      Values::store_rows(out + row * p.out.row, base, at, 1.0f, kept,
                         state.out + t * (SLICE_V / 8));
    }
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE_V / 8; ++f) {
      state.out[t * (SLICE_V / 8) + f] = zero_accumulator();
    }
  }
  kept.is_there = true;
}
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void forward(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device ELEM* out [[buffer(SLOT_OUT)]],
    device float* lse [[buffer(SLOT_LSE)]],
    device float2* stats [[buffer(SLOT_STATS)]],
    DOMAIN_ARGUMENTS SINKS_ARGUMENT constant AttentionParams& p
    [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Place place = place_of(p, group, simdgroup, lane);
  Lane at = place.at;
  int slice = place.slice;
  int base = place.base;
  int base_v = place.base_v;
  int tile = place.tile;
  int group_row0 = (row_groups(p) - 1 - place.grid_x) * ROWS * TILES;
  int row0 = group_row0 + tile * ROWS;
  int head = place.grid_y;
  int batch = place.grid_z;
  Domain d;
  SET_EXTENT(d);
  SET_HEAD(d, head)
  if (d.len_q == 0) return;  // all threads alike
  q += batch * p.q.batch + head * p.q.head + d.first_q * p.q.row;
  k += batch * p.k.batch + (head / p.group) * p.k.head + d.first_kv * p.k.row;
  v += batch * p.v.batch + (head / p.group) * p.v.head + d.first_kv * p.v.row;

  out += batch * p.out.batch + head * p.out.head + d.first_q * p.out.row;

  ForwardState state;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    begin_row(state, t, row_of(q, p.q.row, row, d.len_q), base, at);
  }

  Kept kept = kept_nothing();
#if SUMS_IN_PARTS
  int blocks = 0;
#endif
  // With barriers inside, all tiles of a threadgroup walk the same blocks.
  int first = SPLIT > 1 ? group_row0 : row0;
  int last = min(first + (SPLIT > 1 ? ROWS * TILES : ROWS), d.len_q) - 1;
  Range seen = visible_columns(p, d, first, last);
  for (int block = seen.begin / COLS; block * COLS < seen.end; ++block) {
    int column0 = block * COLS;
    Sight sight = look(p, d, row0, column0, ROWS, 0, tile, at);
    if (sight.is_empty) continue;
#if SUMS_IN_PARTS
    if (is_part_over(blocks, COLS, PART_COLUMNS)) {
      keep_part(state, out, p, d.len_q, row0, base_v, at, kept);
    }
#endif
    attend(state, k, v, p, d, sight, row0, column0, base, base_v, at,
           EXCHANGE_PASSED simdgroup, lane);
  }

#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
#if SUMS_IN_PARTS
    state.row_total[t] =
        fma(state.kept_total[t],
            weight_of(state.kept_maximum[t] - state.row_maximum[t]),
            state.row_total[t]);
#endif
    state.row_total[t] = row_sum(state.row_total[t]);
#if HAS_SINKS
    add_sink(state, t, sinks[head] * SCORE_UNIT);
#endif
    float total = state.row_total[t];
    bool is_empty = total == 0.0f;  // false for NaN, which must come through
    float inverse = is_empty ? 0.0f : 1.0f / total;
    if (row < d.len_q) {
#if HAS_DROPOUT
      float factor = inverse * p.keep_scale;
#else
      float factor = inverse;
#endif
#if SUMS_IN_PARTS
      kept.factor =
          factor * weight_of(state.kept_maximum[t] - state.row_maximum[t]);
#endif
      Values::store_rows(out + row * p.out.row, base_v, at, factor, kept,
                         state.out + t * (SLICE_V / 8));
      if (slice == 0 && at.pair == 0) {
        long index =
            batch * p.rows.batch + head * p.rows.head + d.first_q + row;
        float largest = state.row_maximum[t];
        lse[index] = is_empty ? as_type<float>(0xff800000u)  // -inf, as bits
                              : fma(largest, SCORE_TO_NATURAL,
                                    LN2 * precise::log2(total));
        stats[index] = float2(is_empty ? EMPTY_MAXIMUM : largest, inverse);
      }
    }
  }
}
