// kernels/tile/rows.h: a tile of rows of q and grad_out against columns of k
// and v: scores and output gradients, for the kernels whose tiles are rows.
#pragma once

typedef Contract<HEAD_DIM, SLICE_DIM, 0> Keys;
typedef Contract<HEAD_DIM_V, SLICE_DIM_V, 0> Values;

struct Rows {
  Operand q[TILE_ROWS * (SLICE_DIM / 8)];
  Operand grad_out[TILE_ROWS * (SLICE_DIM_V / 8)];
  RowStat stats[TILE_ROWS];
};

METAL_FUNC void load_tile(thread Rows& rows,
                          device const ELEM* q,
                          device const ELEM* grad_out,
                          device const float2* stats,
                          device const float* delta,
                          constant AttentionParams& p,
                          thread const Place& place,
                          int len_q,
                          int row0) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
    Keys::load_rows(row_of(q, p.q.row, row, len_q), place.base, place.at,
                    rows.q + t * (SLICE_DIM / 8));
    Values::load_rows(row_of(grad_out, p.grad_out.row, row, len_q),
                      place.base_v, place.at,
                      rows.grad_out + t * (SLICE_DIM_V / 8));
    rows.stats[t] = row_stat_of(stats, delta, row, len_q);
  }
}

// s[t][c] = sum over dimensions of rows[t] * columns, one column fragment.
template <int FRAGMENTS>
METAL_FUNC void contract(thread const Operand* rows,
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

// q.k into s, grad_out.v into dp: this simdgroup's slice of head_dim only.
METAL_FUNC void multiply_columns(thread const Rows& rows,
                                 device const ELEM* k,
                                 device const ELEM* v,
                                 constant AttentionParams& p,
                                 thread const Place& place,
                                 int len_kv,
                                 int column0,
                                 thread Accumulator* s,
                                 thread Accumulator* dp) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * place.at.pair;
    Operand keys[SLICE_DIM / 8];
    Keys::load_columns(row_of(k, p.k.row, column, len_kv),
                       row_of(k, p.k.row, column + 1, len_kv), place.base,
                       place.at, keys);
    contract<SLICE_DIM / 8>(rows.q, keys, c, s);
    Operand values[SLICE_DIM_V / 8];
    Values::load_columns(row_of(v, p.v.row, column, len_kv),
                         row_of(v, p.v.row, column + 1, len_kv), place.base_v,
                         place.at, values);
    contract<SLICE_DIM_V / 8>(rows.grad_out, values, c, dp);
  }
}
