// kernels/tile/window.h: which scores exist: block ranges that skip what a
// causal mask or window empties, and one bit for each score inside a block.
#pragma once

// Half-open range of rows or columns.
struct Range {
  int begin;
  int end;
};

// Nothing at all begins at 0, where every block begins: a walk in whole blocks
// must not visit the one around an empty range.
METAL_FUNC Range unless_empty(Range range, bool is_tile_there) {
  if (!is_tile_there || range.end <= range.begin) range.begin = range.end = 0;
  return range;
}

// Columns that rows first .. last can see.
METAL_FUNC Range visible_columns(constant AttentionParams& p,
                                 thread const Domain& d,
                                 int first,
                                 int last) {
  Range seen;
  seen.begin = 0;
  seen.end = d.len_kv;
#if HAS_WINDOW
  seen.begin = max(0, POSITION(d, first) + d.offset - p.window_left);
  seen.end = min(d.len_kv, POSITION(d, last) + d.offset + p.window_right + 1);
#endif
  return unless_empty(seen, first <= last);
}

// Rows that can see columns first .. last.
METAL_FUNC Range visible_rows(constant AttentionParams& p,
                              thread const Domain& d,
                              int first,
                              int last) {
  Range seen;
  seen.begin = 0;
  seen.end = d.len_q;
#if HAS_WINDOW
  seen.begin = max(0, first - d.offset - p.window_right);
  seen.end = min(d.len_q, last - d.offset + p.window_left + 1);
#endif
  return unless_empty(seen, first <= last);
}

// True when no length and no window cuts the tile at row0, column0.
METAL_FUNC bool is_interior(constant AttentionParams& p,
                            thread const Domain& d,
                            int row0,
                            int column0) {
  bool is_whole = column0 + COLS <= d.len_kv;
#if HAS_WINDOW
  is_whole =
      is_whole &&
      column0 >= POSITION(d, row0 + ROWS - 1) + d.offset - p.window_left &&
      column0 + COLS - 1 <= POSITION(d, row0) + d.offset + p.window_right;
#endif
  return is_whole;
}

#if MASK
METAL_FUNC MASK_ELEM mask_at(constant AttentionParams& p,
                             thread const Domain& d,
                             int row,
                             int column) {
  return d.mask[Index(row) * Index(p.mask.row) +
                Index(column) * Index(p.mask_column)];
}
#endif

METAL_FUNC bool is_visible(constant AttentionParams& p,
                           thread const Domain& d,
                           int row,
                           int column) {
  // A row past the last is a copy of it, which may see less.
  bool is_kept = row < d.len_q && column < d.len_kv;
#if HAS_WINDOW
  int facing = POSITION(d, row) + d.offset;
  is_kept = is_kept && column >= facing - p.window_left &&
            column <= facing + p.window_right;
#endif
#if MASK
  if (is_kept) {
    MASK_ELEM x = mask_at(p, d, row, column);
#if MASK == MASK_BOOL
    is_kept = x != 0;
#else
    is_kept = !is_minus_infinity(float(x));  // finite ones count
#endif
  }
#endif
  return is_kept;
}

// Bit 2 * (t * TILE_COLS + c) + e for this lane's element e of fragment (t, c).
#define ALL_KEPT (0xffffffffu >> (32 - 2 * TILE_ROWS * TILE_COLS))

METAL_FUNC bool is_kept_bit(uint kept, int t, int c, int e) {
  return (kept >> (2 * (t * TILE_COLS + c) + e)) & 1u;
}

METAL_FUNC uint visible_bits(constant AttentionParams& p,
                             thread const Domain& d,
                             int row0,
                             int column0,
                             Lane at) {
  uint kept = 0;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        uint bit = is_visible(p, d, row0 + 8 * t + at.row,
                              column0 + 8 * c + 2 * at.pair + e);
        kept |= bit << (2 * (t * TILE_COLS + c) + e);
      }
    }
  }
  return kept;
}

// Which scores of a tile exist: this lane's bits, and whether they matter.
struct VisibleScores {
  uint kept;
  bool is_edge;
  bool is_empty;  // the same in all simdgroups that share barriers
};

// `row_step`, `column_step`: from one tile of a threadgroup to the next.
METAL_FUNC VisibleScores visible_scores(constant AttentionParams& p,
                                        thread const Domain& d,
                                        thread const Place& place,
                                        int row0,
                                        int column0,
                                        int row_step,
                                        int column_step) {
  VisibleScores found;
  found.kept = ALL_KEPT;
  found.is_empty = false;
#if MASK
  found.kept = visible_bits(p, d, row0, column0, place.at);
  uint any = found.kept;
#if SLICES > 1
  for (int other = 0; other < TILES; ++other) {
    if (other != place.tile) {
      any |=
          visible_bits(p, d, row0 + (other - place.tile) * row_step,
                       column0 + (other - place.tile) * column_step, place.at);
    }
  }
#endif
  found.is_empty = !simd_any(any != 0);
  found.is_edge = simd_any(found.kept != ALL_KEPT);
#else
  found.is_edge = !is_interior(p, d, row0, column0);
  if (found.is_edge) found.kept = visible_bits(p, d, row0, column0, place.at);
#endif
  return found;
}
