// kernels/tile/dbias.h: which scores an element of a float mask was
// added to, and the sum of their gradients, stored.
#pragma once

// What one tile of the mask was broadcast to: along a dimension of which the
// mask has one, everything.
struct MaskExtent {
  int batch;
  int batch_end;
  int head;
  int head_end;
  int row;
  int row_end;
  int column;
  int column_end;
};

METAL_FUNC MaskExtent mask_extent(constant AttentionParams& p,
                                  int plane,
                                  int row0,
                                  int column0) {
  MaskExtent all;
  all.batch = plane / p.mask_heads;
  all.head = plane % p.mask_heads;
  all.batch_end = p.mask_batches == 1 ? p.batch : all.batch + 1;
  all.head_end = p.mask_heads == 1 ? p.heads_q : all.head + 1;
  all.row = row0;
  all.row_end = p.mask_rows == 1 ? p.len_q : row0 + ROWS;
#if IS_CARRIED
  if (p.mask_rows == 1) {
    all.row = p.walk_row;
    all.row_end = p.walk_row_end;
  }
#endif
  all.column = p.mask_columns == 1 ? 0 : column0;
  all.column_end = p.mask_columns == 1 ? p.len_kv : column0 + COLS;
  return all;
}

#define DBIAS_FRAGMENTS (TILE_ROWS * TILE_COLS)

// A tile of the mask's gradient; long float32 sums in parts as tile/parts.h
// says, which registers have room for here.
struct DbiasSums {
  Accumulator sums[DBIAS_FRAGMENTS];
#if SUMS_IN_PARTS
  Accumulator parts[DBIAS_FRAGMENTS];
  int blocks;
#endif
};

METAL_FUNC void add_all(thread Accumulator* to, thread Accumulator* from) {
#pragma clang loop unroll(full)
  for (int f = 0; f < DBIAS_FRAGMENTS; ++f) {
    to[f].thread_elements()[0] += from[f].thread_elements()[0];
    to[f].thread_elements()[1] += from[f].thread_elements()[1];
  }
}

METAL_FUNC void begin_sums(thread DbiasSums& all) {
  clear_all<DBIAS_FRAGMENTS>(all.sums);
#if SUMS_IN_PARTS
  clear_all<DBIAS_FRAGMENTS>(all.parts);
  all.blocks = 0;
#endif
}

METAL_FUNC void end_part(thread DbiasSums& all) {
#if SUMS_IN_PARTS
  add_all(all.parts, all.sums);
  clear_all<DBIAS_FRAGMENTS>(all.sums);
#endif
}

METAL_FUNC void add_block(thread DbiasSums& all, thread Accumulator* ds) {
#if SUMS_IN_PARTS
  if (is_part_over(all.blocks, ROWS, PART_ROWS)) end_part(all);
#endif
  add_all(all.sums, ds);
}

#if IS_CARRIED
// What a simdgroup leaves to the next launch, and takes up there.
#if SUMS_IN_PARTS
#define DBIAS_SUMS_FRAGMENTS (2 * DBIAS_FRAGMENTS + 1)
#else
#define DBIAS_SUMS_FRAGMENTS DBIAS_FRAGMENTS
#endif

METAL_FUNC void resume_sums(thread DbiasSums& all, device const float* from) {
  load_sums<DBIAS_FRAGMENTS>(from, all.sums);
#if SUMS_IN_PARTS
  load_sums<DBIAS_FRAGMENTS>(from + 64 * DBIAS_FRAGMENTS, all.parts);
  all.blocks = int(from[64 * 2 * DBIAS_FRAGMENTS]);
#endif
}

METAL_FUNC void interrupt_sums(thread DbiasSums& all, device float* to) {
  store_sums<DBIAS_FRAGMENTS>(to, all.sums);
#if SUMS_IN_PARTS
  store_sums<DBIAS_FRAGMENTS>(to + 64 * DBIAS_FRAGMENTS, all.parts);
  to[64 * 2 * DBIAS_FRAGMENTS] = float(all.blocks);
#endif
}
#endif

// Sums over the columns of each row into fragment 0's first element.
METAL_FUNC void sum_columns(thread Accumulator* sums) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    float total = 0.0f;
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      total += sums[t * TILE_COLS + c].thread_elements()[0];
      total += sums[t * TILE_COLS + c].thread_elements()[1];
    }
    sums[t * TILE_COLS].thread_elements()[0] = row_sum(total);
  }
}

// Sums over the rows of each column into the first row of fragments.
METAL_FUNC void sum_rows(thread Accumulator* sums) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
#pragma clang loop unroll(full)
    for (int e = 0; e < 2; ++e) {
      float total = 0.0f;
#pragma clang loop unroll(full)
      for (int t = 0; t < TILE_ROWS; ++t) {
        total += sums[t * TILE_COLS + c].thread_elements()[e];
      }
      sums[c].thread_elements()[e] = column_sum(total);
    }
  }
}

METAL_FUNC void store_dbias(device MASK_ELEM* to,
                            constant AttentionParams& p,
                            int row0,
                            int column0,
                            Lane at,
                            thread DbiasSums& all) {
#if SUMS_IN_PARTS
  end_part(all);
  thread Accumulator* sums = all.parts;
#else
  thread Accumulator* sums = all.sums;
#endif
  if (p.mask_columns == 1) sum_columns(sums);
  if (p.mask_rows == 1) sum_rows(sums);
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        int row = row0 + 8 * t + at.row;
        int column = column0 + 8 * c + 2 * at.pair + e;
        if (row < p.mask_rows && column < p.mask_columns) {
          to[Index(row) * p.mask_columns + column] =
              MASK_ELEM(sums[t * TILE_COLS + c].thread_elements()[e]);
        }
      }
    }
  }
}
