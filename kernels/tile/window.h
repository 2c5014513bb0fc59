// kernels/tile/window.h: which scores exist: block ranges that skip what a
// causal mask or window empties, and the test of one score inside a block.
#pragma once

// Half-open range of rows or columns.
struct Range {
  int begin;
  int end;
};

// Columns that rows first .. last can see.
inline Range visible_columns(constant AttentionParams& p, int first, int last) {
  Range seen;
  seen.begin = 0;
  seen.end = p.len_kv;
#if HAS_WINDOW
  seen.begin = max(0, first + p.offset - p.window_left);
  seen.end = min(p.len_kv, last + p.offset + p.window_right + 1);
#endif
  return seen;
}

// Rows that can see columns first .. last.
inline Range visible_rows(constant AttentionParams& p, int first, int last) {
  Range seen;
  seen.begin = 0;
  seen.end = p.len_q;
#if HAS_WINDOW
  seen.begin = max(0, first - p.offset - p.window_right);
  seen.end = min(p.len_q, last - p.offset + p.window_left + 1);
#endif
  return seen;
}

// True when every score of rows x columns exists, so that no test is needed.
inline bool is_interior(constant AttentionParams& p,
                        int row_first,
                        int row_last,
                        int column_first,
                        int column_last) {
  bool is_whole = column_last < p.len_kv;
#if HAS_WINDOW
  is_whole = is_whole && column_first >= row_last + p.offset - p.window_left &&
             column_last <= row_first + p.offset + p.window_right;
#endif
  return is_whole;
}

inline bool is_visible(constant AttentionParams& p, int row, int column) {
  bool is_kept = column < p.len_kv;
#if HAS_WINDOW
  is_kept = is_kept && column >= row + p.offset - p.window_left &&
            column <= row + p.offset + p.window_right;
#endif
  return is_kept;
}
