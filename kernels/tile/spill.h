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

// Where ds goes, all of it and a tile: empty where it is not kept.
#if SPILLS
struct SpillBuffers {
  constant SpillChunk* chunk;
  device ELEM* ds;
#if IS_HALF
  device float* units;
#endif
};
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
#if IS_HALF
#define GATHER_UNITS(buffers) buffers.units = units;
#else
#define GATHER_UNITS(buffers)
#endif
// Only the kernel itself can name its arguments.
#define GATHER_SPILL(buffers) \
  SpillBuffers buffers;       \
  buffers.chunk = &chunk;     \
  buffers.ds = spill_all;     \
  GATHER_UNITS(buffers)
#else
struct SpillBuffers {};
struct Spill {};
#define SPILL_ARGUMENTS
#define GATHER_SPILL(buffers) SpillBuffers buffers;
#endif

// Of a tile; `head` counts the chunk's.
METAL_FUNC Spill spill_of(thread const SpillBuffers& buffers,
                          int head,
                          int row0,
                          int column0) {
  Spill found;
#if SPILLS
  constant SpillChunk& chunk = *buffers.chunk;
  long before = spill_head(chunk, head);
  Index index = spill_fragment(chunk, row0, column0);
  found.first = buffers.ds + 64 * before + 64 * index;
#if IS_HALF
  found.units = buffers.units + before + index;
#endif
  found.row_step = 64 * Index(chunk.column_fragments);
  found.is_there = column0 < chunk.column_end;
#endif
  return found;
}

// Simdgroups that share a tile hold the same scores: each writes its part.
METAL_FUNC void spill_tile(thread const Spill& spill,
                           thread const Place& place,
                           float unit,
                           thread Accumulator* ds) {
#if SPILLS
  if (!spill.is_there) return;
#if IS_HALF
  uint lane = place.lane;
  if (place.slice == 0 && lane < TILE_ROWS * TILE_COLS) {
    spill.units[Index(lane / TILE_COLS) * (spill.row_step / 64) +
                Index(lane % TILE_COLS)] = unit;
  }
#endif
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      if ((t * TILE_COLS + c) % SLICES != place.slice) continue;
      Operand rounded;
      round_to_operand(rounded, ds[t * TILE_COLS + c]);
      spill_store(spill.first + t * spill.row_step, c, place.lane, rounded);
    }
  }
#endif
}

METAL_FUNC void spill_zeros(thread const Spill& spill,
                            thread const Place& place,
                            float unit) {
#if SPILLS
  Accumulator zeros[TILE_ROWS * TILE_COLS];
  clear_all<TILE_ROWS * TILE_COLS>(zeros);
  spill_tile(spill, place, unit, zeros);
#endif
}
