// kernels/backward_dq.metal: dq = scale * ds k, where ds is recomputed a block
// of columns at a time; a tile of rows per SPLIT simdgroups.
//
// Grid: (ceil(len_q / (ROWS * TILES)), heads_q, batch) threadgroups of
// 32 * SIMDGROUPS threads; row tiles run backwards, longest first when causal.
#define SCORE_FRAGMENTS (2 * TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/gradient.h"

typedef Contract<HEAD_DIM, SLICE, 0> Keys;
typedef Contract<HEAD_DIM_V, SLICE_V, 0> Values;
typedef Spread<HEAD_DIM, SLICE, 0> Gradients;

struct Rows {
  Operand q[TILE_ROWS * (SLICE / 8)];
  Operand grad_out[TILE_ROWS * (SLICE_V / 8)];
};

// s[t][c] = sum over dimensions of rows[t] * columns, one column fragment.
template <int FRAGMENTS>
inline void contract(thread const Operand* rows,
                     thread const Operand* columns,
                     int c,
                     thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) s[t * TILE_COLS + c] = zero_accumulator();
#pragma clang loop unroll(full)
  for (int f = 0; f < FRAGMENTS; ++f) {
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t) {
      multiply_add(s[t * TILE_COLS + c], rows[t * FRAGMENTS + f], columns[f]);
    }
  }
}

[[kernel, max_total_threads_per_threadgroup(32 * SIMDGROUPS)]] void backward_dq(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
    device const float2* stats [[buffer(SLOT_STATS)]],
    device ELEM* dq [[buffer(SLOT_DQ)]],
    constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Lane at = lane_position(lane);
  int base = int(simdgroup % SPLIT) * SLICE;
  int base_v = int(simdgroup % SPLIT) * SLICE_V;
  int group_row0 = int(groups.x - 1 - group.x) * ROWS * TILES;
  int row0 = group_row0 + int(simdgroup / SPLIT) * ROWS;
  int head = int(group.y);
  int batch = int(group.z);
  q += batch * p.q.batch + head * p.q.head;
  k += batch * p.k.batch + (head / p.group) * p.k.head;
  v += batch * p.v.batch + (head / p.group) * p.v.head;
  grad_out += batch * p.grad_out.batch + head * p.grad_out.head;
  stats += (long(batch) * p.heads_q + head) * p.len_q;

  Rows rows;
  Accumulator gradient[TILE_ROWS * (SLICE / 8)];
  float2 row_stat[TILE_ROWS];
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    Keys::load_rows(q + row * p.q.row, row < p.len_q, base, at,
                    rows.q + t * (SLICE / 8));
    Values::load_rows(grad_out + row * p.grad_out.row, row < p.len_q, base_v,
                      at, rows.grad_out + t * (SLICE_V / 8));
    row_stat[t] = row_stats(stats, row, p.len_q);
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE / 8; ++f) {
      gradient[t * (SLICE / 8) + f] = zero_accumulator();
    }
  }

  // With barriers inside, all tiles of a threadgroup walk the same blocks.
  int first = SPLIT > 1 ? group_row0 : row0;
  int last = min(first + (SPLIT > 1 ? ROWS * TILES : ROWS), p.len_q) - 1;
  Range seen = visible_columns(p, first, last);
  if (last < first) seen.end = seen.begin;  // a tile past the last row
  for (int block = seen.begin / COLS; block * COLS < seen.end; ++block) {
    int column0 = block * COLS;
    // Scores, then output gradients against values, in one array: the
    // exchange sums both at once.
    Accumulator s[SCORE_FRAGMENTS];
    thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      int column = column0 + 8 * c + 2 * at.pair;
      Operand keys[SLICE / 8];
      Keys::load_columns(k + column * p.k.row, p.k.row, p.len_kv - column, base,
                         at, keys);
      contract<SLICE / 8>(rows.q, keys, c, s);
      Operand values[SLICE_V / 8];
      Values::load_columns(v + column * p.v.row, p.v.row, p.len_kv - column,
                           base_v, at, values);
      contract<SLICE_V / 8>(rows.grad_out, values, c, dp);
    }
    SUM_SLICES(s);
    if (is_interior(p, row0, row0 + ROWS - 1, column0, column0 + COLS - 1)) {
      differentiate<0>(p, row0, column0, at, row_stat, s, dp);
    } else {
      differentiate<1>(p, row0, column0, at, row_stat, s, dp);
    }
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      Operand ds[TILE_ROWS];
#pragma clang loop unroll(full)
      for (int t = 0; t < TILE_ROWS; ++t) {
        round_to_operand(ds[t], dp[t * TILE_COLS + c]);
      }
      int column = column0 + 8 * c + at.row;
      Gradients::multiply_rows(k + column * p.k.row, column < p.len_kv, base,
                               at, ds, gradient);
    }
  }

#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    if (row < p.len_q) {
      device ELEM* to =
          dq + batch * p.dq.batch + head * p.dq.head + row * p.dq.row;
      Gradients::store_rows(to, base, at, p.scale, gradient + t * (SLICE / 8));
    }
  }
}
