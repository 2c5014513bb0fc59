// kernels/forward.metal: out = softmax(scores) v and its log-sum-exp, one pass
// over the keys with a running maximum (FlashAttention-2, algorithm 1;
// arXiv:2307.08691), a tile of rows per SLICES simdgroups.  What a score is
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
  Values::scale(state.out + t * (SLICE_DIM_V / 8), correction);
  state.row_maximum[t] = largest;
}
#else
#define SINKS_ARGUMENT
#endif

#if SUMS_IN_PARTS
// Adds one part of the keys to those in memory (tile/parts.h), which first come
// to the maximum that rows have by now.  `out`: row 0 of the sequence.
METAL_FUNC void store_part(thread ForwardState& state,
                           device RESULT* out,
                           constant AttentionParams& p,
                           thread const Place& place,
                           int len_q,
                           int row0,
                           thread Stored& stored) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    float largest = state.row_maximum[t];
    stored.factor = weight_of(state.stored_maximum[t] - largest);
    state.stored_maximum[t] = largest;
    state.stored_total[t] =
        fma(state.stored_total[t], stored.factor, state.row_total[t]);
    state.row_total[t] = 0.0f;
    int row = row0 + 8 * t + place.at.row;
    if (row < len_q) {
      Values::store_rows(out + row * p.out.row, place.base_v, place.at, 1.0f,
                         stored, state.out + t * (SLICE_DIM_V / 8));
    }
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE_DIM_V / 8; ++f) {
      state.out[t * (SLICE_DIM_V / 8) + f] = zero_accumulator();
    }
  }
  stored.is_there = true;
}
#endif

// Divides a row of the tile by its total, and stores it with its statistics.
// `out`, `lse`, `stats`: of that row.
METAL_FUNC void store_row(thread ForwardState& state,
                          thread Stored& stored,
                          constant AttentionParams& p,
                          thread const Place& place,
                          int t,
                          device RESULT* out,
                          device float* lse,
                          device float2* stats) {
  float total = state.row_total[t];
  float largest = state.row_maximum[t];
  bool is_empty = total == 0.0f;  // false for NaN, which must come through
  float inverse = is_empty ? 0.0f : 1.0f / total;
#if HAS_DROPOUT
  float factor = inverse * p.keep_scale;
#else
  float factor = inverse;
#endif
#if SUMS_IN_PARTS
  stored.factor = factor * weight_of(state.stored_maximum[t] - largest);
#endif
  Values::store_rows(out, place.base_v, place.at, factor, stored,
                     state.out + t * (SLICE_DIM_V / 8));
  if (place.slice != 0 || place.at.pair != 0) return;
  *lse = is_empty ? as_type<float>(0xff800000u)  // -inf, as bits
                  : fma(largest, SCORE_TO_NATURAL, LN2 * precise::log2(total));
  *stats = float2(is_empty ? EMPTY_MAXIMUM : largest, inverse);
}

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void forward(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device RESULT* out [[buffer(SLOT_OUT)]],
    device float* lse [[buffer(SLOT_LSE)]],
    device float2* stats [[buffer(SLOT_STATS)]],
    DOMAIN_ARGUMENTS SINKS_ARGUMENT constant AttentionParams& p
    [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE(exchange)
  GATHER_DOMAIN(tensors)
  Place place = place_of(p, group, simdgroup, lane);
  int group_row0 = (row_groups(p) - 1 - place.grid_x) * ROWS * TILES;
  int row0 = group_row0 + place.tile * ROWS;
  int head = place.grid_y;
  int batch = place.grid_z;
  Domain d = domain_of(p, tensors, batch);
  enter_head(d, p, tensors, batch, head);
  if (d.len_q == 0) return;  // all threads alike
  q = head_of(q, p.q, batch, head, d.first_q);
  k = head_of(k, p.k, batch, head / p.group, d.first_kv);
  v = head_of(v, p.v, batch, head / p.group, d.first_kv);
  out = head_of(out, p.out, batch, head, d.first_q);

  ForwardState state;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
    begin_row(state, t, row_of(q, p.q.row, row, d.len_q), place);
  }

  Stored stored = nothing_stored();
#if SUMS_IN_PARTS
  int blocks = 0;
#endif
  // With barriers inside, all tiles of a threadgroup walk the same blocks.
  int first = SLICES > 1 ? group_row0 : row0;
  int last = min(first + (SLICES > 1 ? ROWS * TILES : ROWS), d.len_q) - 1;
  Range seen = visible_columns(p, d, first, last);
  for (int block = seen.begin / COLS; block * COLS < seen.end; ++block) {
    int column0 = block * COLS;
    VisibleScores in_view = visible_scores(p, d, place, row0, column0, ROWS, 0);
    if (in_view.is_empty) continue;
#if SUMS_IN_PARTS
    if (is_part_over(blocks, COLS, PART_COLUMNS)) {
      store_part(state, out, p, place, d.len_q, row0, stored);
    }
#endif
    attend(state, k, v, p, d, place, in_view, row0, column0, exchange);
  }

#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
#if SUMS_IN_PARTS
    state.row_total[t] =
        fma(state.stored_total[t],
            weight_of(state.stored_maximum[t] - state.row_maximum[t]),
            state.row_total[t]);
#endif
    state.row_total[t] = row_sum(state.row_total[t]);
#if HAS_SINKS
    add_sink(state, t, sinks[head] * SCORE_UNIT);
#endif
    if (row < d.len_q) {
      long index = row_of_all(p, batch, head, d.first_q + row);
      store_row(state, stored, p, place, t, out + row * p.out.row, lse + index,
                stats + index);
    }
  }
}
