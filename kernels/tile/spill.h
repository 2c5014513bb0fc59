// kernels/tile/spill.h: gradients of scores that one kernel leaves to another,
// as operands: a fragment is 64 elements, two for each lane in the order of
// lanes, so that writing and reading it is one instruction and one cache line.
//
// Those of halves are in units of their own (tile/unit.h), a float a fragment
// in the same order, the same for all of a tile of backward_dkdv.
//
// Fragments lie as [query head of the chunk, 8 rows, 8 columns].  Every tile of
// backward_dkdv that a window leaves something of is written, with zeros where
// a score does not exist; what reads must not look at any other.
#pragma once

// Fragments before those of a head, of which `head` counts the chunk's.
METAL_FUNC long spill_head(constant SpillChunk& chunk, int head) {
  return long(head) * chunk.row_fragments * chunk.column_fragments;
}

// Index of a fragment in its head.
METAL_FUNC Index spill_fragment(constant SpillChunk& chunk,
                                int row0,
                                int column0) {
  return Index(row0 / 8) * chunk.column_fragments +
         (column0 - chunk.column0) / 8;
}

METAL_FUNC void spill_store(device ELEM* spill,
                            Index index,
                            uint lane,
                            thread Operand& from) {
  OPERAND x[2];
  x[0] = from.thread_elements()[0];
  x[1] = from.thread_elements()[1];
  Wide<2>::store(spill + index * 64 + 2 * lane, x);
}

METAL_FUNC void spill_load(device const ELEM* spill,
                           Index index,
                           uint lane,
                           thread Operand& to) {
  OPERAND x[2];
  load_wide<2>(spill + index * 64 + 2 * lane, x);
  set_pair(to, x[0], x[1]);
}

#if IS_HALF
#define UNITS_ARGUMENT device float *units [[buffer(SLOT_UNITS)]],
#define UNITS_PARAMETER device float *units,
#define UNITS_PASSED units,
#else
#define UNITS_ARGUMENT
#define UNITS_PARAMETER
#define UNITS_PASSED
#endif

#if SPILLS
// Where the fragments of a tile go.
struct Spill {
  device ELEM* first;
  Index row_step;  // elements from one row of fragments to the next
#if IS_HALF
  device float* units;
#endif
  bool is_there;  // or the tile is past the last column
};

#define SPILL_ARGUMENTS                          \
  device ELEM *spill_all [[buffer(SLOT_SPILL)]], \
      UNITS_ARGUMENT constant SpillChunk &chunk [[buffer(SLOT_CHUNK)]],
#define SPILL_PARAMETER thread const Spill &spill,
#define SPILL_PASSED spill,
#define SET_SPILL(head) \
  Spill spill = spill_of(spill_all, UNITS_PASSED chunk, head, row0, column0);
#define SPILL_TILE(ds, unit) spill_tile(spill, unit, simdgroup, lane, ds);
#define SPILL_ZEROS(unit) spill_zeros(spill, unit, simdgroup, lane);

METAL_FUNC Spill spill_of(device ELEM* spill,
                          UNITS_PARAMETER constant SpillChunk& chunk,
                          int head,
                          int row0,
                          int column0) {
  Spill found;
  long before = spill_head(chunk, head);
  Index index = spill_fragment(chunk, row0, column0);
  found.first = spill + 64 * before + 64 * index;
#if IS_HALF
  found.units = units + before + index;
#endif
  found.row_step = 64 * Index(chunk.column_fragments);
  found.is_there = column0 < chunk.column_end;
  return found;
}

// Simdgroups that share a tile hold the same scores: each writes its part.
METAL_FUNC void spill_tile(thread const Spill& spill,
                           float unit,
                           uint simdgroup,
                           uint lane,
                           thread Accumulator* ds) {
  if (!spill.is_there) return;
#if IS_HALF
  if (simdgroup % SPLIT == 0 && lane < TILE_ROWS * TILE_COLS) {
    spill.units[Index(lane / TILE_COLS) * (spill.row_step / 64) +
                Index(lane % TILE_COLS)] = unit;
  }
#endif
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      if (uint(t * TILE_COLS + c) % SPLIT != simdgroup % SPLIT) continue;
      Operand rounded;
      round_to_operand(rounded, ds[t * TILE_COLS + c]);
      spill_store(spill.first + t * spill.row_step, c, lane, rounded);
    }
  }
}

METAL_FUNC void spill_zeros(thread const Spill& spill,
                            float unit,
                            uint simdgroup,
                            uint lane) {
  Accumulator zeros[TILE_ROWS * TILE_COLS];
#pragma clang loop unroll(full)
  for (int f = 0; f < TILE_ROWS * TILE_COLS; ++f) zeros[f] = zero_accumulator();
  spill_tile(spill, unit, simdgroup, lane, zeros);
}
#else
#define SPILL_ARGUMENTS
#define SPILL_PARAMETER
#define SPILL_PASSED
#define SET_SPILL(head)
#define SPILL_TILE(ds, unit)
#define SPILL_ZEROS(unit)
#endif
