// kernels/tile/lane.h: where a lane stands in an 8x8 simdgroup matrix, and the
// reductions over one row of it.
#pragma once

// A lane holds (row, 2 * pair) and (row, 2 * pair + 1) of every 8x8 fragment.
struct Lane {
  int row;
  int pair;
};

// Apple's layout: row = 4 b4 + 2 b2 + b1, column = 4 b3 + 2 b0 (lane bits).
METAL_FUNC Lane lane_position(uint lane) {
  Lane at;
  at.row =
      int(((lane >> 4) & 1) * 4 + ((lane >> 2) & 1) * 2 + ((lane >> 1) & 1));
  at.pair = int(((lane >> 3) & 1) * 2 + (lane & 1));
  return at;
}

// The four lanes of one row differ in bits 0 and 3.
METAL_FUNC float row_max(float x) {
  x = max(x, simd_shuffle_xor(x, 1));
  return max(x, simd_shuffle_xor(x, 8));
}

METAL_FUNC float row_sum(float x) {
  x += simd_shuffle_xor(x, 1);
  return x + simd_shuffle_xor(x, 8);
}

// The eight lanes of one column differ in bits 1, 2 and 4.
METAL_FUNC float column_sum(float x) {
  x += simd_shuffle_xor(x, 2);
  x += simd_shuffle_xor(x, 4);
  return x + simd_shuffle_xor(x, 16);
}
