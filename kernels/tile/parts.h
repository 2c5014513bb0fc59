// kernels/tile/parts.h: long sums in float32, in two levels.  Each term that is
// added to a sum costs a rounding of all that came before, so that a sum of n
// numbers in a row is off by sqrt(n) of them, where plain operators, which add
// blocks first, are not.  After so many rows or columns the accumulators are
// therefore added to what is in memory, the result's own place, and begin anew.
// 16 bits do without: there the result's rounding hides it, and memory would
// round.
#pragma once

#define SUMS_IN_PARTS (ELEM_BYTES == 4)
#define PART_ROWS 256  // dk and dv have those of every head of a group
#define PART_COLUMNS 512

// What memory holds of a sum whose rest is in accumulators.
struct Stored {
  bool is_there;
  float factor;  // that brings it to the accumulators' measure
};

METAL_FUNC Stored nothing_stored() {
  Stored stored = {false, 1.0f};
  return stored;
}

// x, elements d .. d + W - 1 of a row, becomes what memory holds and x.
template <int W, int DIM, int IS_RAGGED>
METAL_FUNC void add_stored(device const RESULT* row,
                           int d,
                           Stored stored,
                           thread RESULT_OPERAND* x) {
#if SUMS_IN_PARTS
  if (!stored.is_there) return;
  OPERAND before[W];
  load_row<W, DIM, IS_RAGGED>(row, d, before);
#pragma clang loop unroll(full)
  for (int i = 0; i < W; ++i)
    x[i] = fma(float(before[i]), stored.factor, float(x[i]));
#endif
}

#if SUMS_IN_PARTS
// Before each block of a walk, which it counts: whether the blocks before it
// make a part.
METAL_FUNC bool is_part_over(thread int& blocks, int block_length, int length) {
  bool is_over = blocks * block_length >= length;
  blocks = is_over ? 1 : blocks + 1;
  return is_over;
}
#endif
