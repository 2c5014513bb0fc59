// kernels/tile/store_dq.h: a tile of rows of dq to memory.
#pragma once

typedef Spread<HEAD_DIM, SLICE_DIM, 0> Gradients;

// `dq`: row 0 of the sequence.
METAL_FUNC void store_dq(device RESULT* dq,
                         constant AttentionParams& p,
                         thread const Place& place,
                         int len_q,
                         int row0,
                         float factor,
                         Stored stored,
                         thread Accumulator* gradient) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
    if (row < len_q) {
      Gradients::store_rows(dq + row * p.dq.row, place.base, place.at, factor,
                            stored, gradient + t * (SLICE_DIM / 8));
    }
  }
}
