// kernels/backward_dq.metal: dq = scale * ds k, where ds is recomputed a block
// of columns at a time; a tile of rows per SLICES simdgroups.
//
// Grid: (ceil(len_q / (ROWS * TILES)), heads_q, batch) threadgroups of
// 32 * SIMDGROUPS threads; row tiles run backwards, longest first when causal.
#define SCORE_FRAGMENTS (2 * TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/gradient.h"
#include "tile/rows.h"
#include "tile/unit.h"
#include "tile/store_dq.h"

#define FRAGMENTS (TILE_ROWS * (SLICE_DIM / 8))

// Adds what one block of columns gives.
METAL_FUNC void add_block(thread Rows& rows,
                          device const ELEM* k,
                          device const ELEM* v,
                          constant AttentionParams& p,
                          thread const Domain& d,
                          thread const Place& place,
                          thread const VisibleScores& in_view,
                          int row0,
                          int column0,
                          thread Exchange& exchange,
                          thread float& unit,
                          thread Accumulator* gradient) {
  // Scores, then output gradients against values, in one array: the exchange
  // sums both at once.
  Accumulator s[SCORE_FRAGMENTS];
  thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
  multiply_columns(rows, k, v, p, place, d.len_kv, column0, s, dp);
  sum_slices(s, exchange, place);
  if (in_view.is_edge) {
    differentiate<1, 0>(p, d, in_view.kept, row0, column0, place.at, unit,
                        rows.stats, s, dp);
  } else {
    differentiate<0, 0>(p, d, in_view.kept, row0, column0, place.at, unit,
                        rows.stats, s, dp);
  }
  fit_unit<FRAGMENTS>(dp, unit, gradient);
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    Operand ds[TILE_ROWS];
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t) {
      round_to_operand(ds[t], dp[t * TILE_COLS + c]);
    }
    int column = column0 + 8 * c + place.at.row;
    Gradients::multiply_rows(row_of(k, p.k.row, column, d.len_kv), place.base,
                             place.at, ds, gradient);
  }
}

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void backward_dq(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
    device const float2* stats [[buffer(SLOT_STATS)]],
    device const float* delta [[buffer(SLOT_DELTA)]],
    device RESULT* dq [[buffer(SLOT_DQ)]],
    DOMAIN_ARGUMENTS constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
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
  grad_out = head_of(grad_out, p.grad_out, batch, head, d.first_q);
  dq = head_of(dq, p.dq, batch, head, d.first_q);
  long first_row = row_of_all(p, batch, head, d.first_q);

  Rows rows;
  load_tile(rows, q, grad_out, stats + first_row, delta + first_row, p, place,
            d.len_q, row0);
  Accumulator gradient[FRAGMENTS];
  clear_all<FRAGMENTS>(gradient);
  Stored stored = nothing_stored();
#if SUMS_IN_PARTS
  int blocks = 0;
#endif

  float unit = FIRST_UNIT;
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
      store_dq(dq, p, place, d.len_q, row0, p.scale, stored, gradient);
      clear_all<FRAGMENTS>(gradient);
      stored.is_there = true;
    }
#endif
    add_block(rows, k, v, p, d, place, in_view, row0, column0, exchange, unit,
              gradient);
  }

  store_dq(dq, p, place, d.len_q, row0, p.scale / unit, stored, gradient);
}
