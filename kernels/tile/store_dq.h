// kernels/tile/store_dq.h: a tile of rows of dq to memory.
#pragma once

typedef Spread<HEAD_DIM, SLICE, 0> Gradients;

// `dq`: row 0 of the sequence.
METAL_FUNC void store_dq(device ELEM* dq,
                         constant AttentionParams& p,
                         int len_q,
                         int row0,
                         int base,
                         Lane at,
                         float factor,
                         Kept kept,
                         thread Accumulator* gradient) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    if (row < len_q) {
      Gradients::store_rows(dq + row * p.dq.row, base, at, factor, kept,
                            gradient + t * (SLICE / 8));
    }
  }
}
