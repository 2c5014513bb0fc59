// kernels/backward_dq_spilled.metal: dq = scale * ds k from the ds that
// backward_dkdv left; one product where backward_dq needs three.  The tile
// divides backward_dkdv's, so every fragment that it reads was written.
//
// Grid: (ceil(len_q / (ROWS * TILES)), query heads of the chunk, 1)
// threadgroups of 32 * SIMDGROUPS threads; rows backwards, longest first when
// causal.  Simdgroups that share a tile take a slice of head_dim each.
#include "tile/prelude.h"
#include "tile/spill.h"
#include "tile/unit.h"
#include "tile/carry.h"
#include "tile/store_dq.h"

#define FRAGMENTS (TILE_ROWS * (SLICE_DIM / 8))

#if IS_HALF
// Whether one of `count` fragments has another unit.  They seldom have, so all
// are asked before the loop, which then need not wait for any.
METAL_FUNC bool has_other_unit(device const float* units,
                               int count,
                               float unit,
                               uint lane) {
  bool is_other = false;
  for (int i = int(lane); i < count; i += 32) {
    is_other = is_other || units[i] != unit;
  }
  return simd_any(is_other);
}

// Brings dq to the unit of the next fragments.
METAL_FUNC void follow_unit(float next,
                            thread float& unit,
                            thread Accumulator* gradient) {
  if (next == unit) return;
  multiply_all<FRAGMENTS>(gradient, next / unit);
  unit = next;
}
#endif

// Adds ds times eight rows of k.
METAL_FUNC void add_columns(device const ELEM* k,
                            device const ELEM* spill,
                            constant SpillChunk& chunk,
                            constant AttentionParams& p,
                            thread const Place& place,
                            int len_kv,
                            int row0,
                            int column0,
                            thread Accumulator* gradient) {
  Operand ds[TILE_ROWS];
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    spill_load(spill, spill_fragment(chunk, row0 + 8 * t, column0), place.lane,
               ds[t]);
  }
  Gradients::multiply_rows(row_of(k, p.k.row, column0 + place.at.row, len_kv),
                           place.base, place.at, ds, gradient);
}

// The blocks of columns that a tile of rows sees in the chunk.
METAL_FUNC Range blocks_of_chunk(constant SpillChunk& chunk,
                                 constant AttentionParams& p,
                                 thread const Domain& d,
                                 int row0) {
  int last = min(row0 + ROWS, d.len_q) - 1;
  Range seen = visible_columns(p, d, row0, last);
  seen.begin = max(seen.begin, chunk.column0);
  seen.end = min(seen.end, chunk.column_end);
  seen = unless_empty(seen, true);
  seen.begin = seen.begin / COLS;
  seen.end = (seen.end + COLS - 1) / COLS;
  return seen;
}

// Where columns come in several chunks, dq of the chunks before, as the
// accumulators that they are; in float32 it is in its place (tile/parts.h).
#if IS_SUMMED
#define SUMS_ARGUMENT device float *sums [[buffer(SLOT_DQ_SUMS)]],

// Of this lane, of the chunk's tile of that number.
METAL_FUNC device float* sums_of(device float* sums,
                                 thread const Place& place,
                                 int tile) {
  return sums + (long(tile) * SLICES + place.slice) * (FRAGMENTS * 64) +
         2 * place.lane;
}
#else
#define SUMS_ARGUMENT
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dq_spilled(device const ELEM* k [[buffer(SLOT_K)]],
                    device RESULT* dq [[buffer(SLOT_DQ)]],
                    device const ELEM* spill [[buffer(SLOT_SPILL)]],
                    UNITS_ARGUMENT SUMS_ARGUMENT DOMAIN_ARGUMENTS
                        constant SpillChunk& chunk [[buffer(SLOT_CHUNK)]],
                    constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
                    uint3 group [[threadgroup_position_in_grid]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]]) {
  GATHER_DOMAIN(tensors)
  Place place = place_of(p, group, simdgroup, lane);
  int tile = (row_groups(p) - 1 - place.grid_x) * TILES + place.tile;
  int row0 = tile * ROWS;
  int head = place.grid_y;
  int head_q = chunk.first_pair * p.group + head;
  int batch = head_q / p.heads_q;
  head_q = head_q % p.heads_q;
  Domain d = domain_of(p, tensors, batch);
  if (row0 >= d.len_q) return;  // a whole simdgroup leaves
  k = head_of(k, p.k, batch, head_q / p.group, d.first_kv);
  dq = head_of(dq, p.dq, batch, head_q, d.first_q);
  spill += 64 * spill_head(chunk, head);
#if IS_HALF
  units += spill_head(chunk, head);
#endif
  Accumulator gradient[FRAGMENTS];
  clear_all<FRAGMENTS>(gradient);
  Stored stored = nothing_stored();
#if SUMS_IN_PARTS
  int blocks = 0;
  stored.is_there = chunk.column0 > 0;
#endif
#if IS_SUMMED
  sums = sums_of(sums, place, head * row_groups(p) * TILES + tile);
  if (chunk.column0 > 0) {
    load_sums<FRAGMENTS>(sums, gradient);
    multiply_all<FRAGMENTS>(gradient, FIRST_UNIT);
  }
#endif
  float unit = FIRST_UNIT;
  Range left = blocks_of_chunk(chunk, p, d, row0);
#if IS_HALF
  if (has_other_unit(units + spill_fragment(chunk, row0, left.begin * COLS),
                     (left.end - left.begin) * TILE_COLS, unit, lane)) {
    for (; left.begin < left.end; ++left.begin) {
#pragma clang loop unroll(full)
      for (int c = 0; c < TILE_COLS; ++c) {
        int column0 = left.begin * COLS + 8 * c;
        follow_unit(units[spill_fragment(chunk, row0, column0)], unit,
                    gradient);
        add_columns(k, spill, chunk, p, place, d.len_kv, row0, column0,
                    gradient);
      }
    }
  }
#endif
  for (; left.begin < left.end; ++left.begin) {
#if SUMS_IN_PARTS
    if (is_part_over(blocks, COLS, PART_COLUMNS)) {
      store_dq(dq, p, place, d.len_q, row0, p.scale, stored, gradient);
      clear_all<FRAGMENTS>(gradient);
      stored.is_there = true;
    }
#endif
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      add_columns(k, spill, chunk, p, place, d.len_kv, row0,
                  left.begin * COLS + 8 * c, gradient);
    }
  }
#if IS_SUMMED
  if (!chunk.is_last) {
    multiply_all<FRAGMENTS>(gradient, 1.0f / unit);
    store_sums<FRAGMENTS>(sums, gradient);
    return;
  }
#endif
  store_dq(dq, p, place, d.len_q, row0, p.scale / unit, stored, gradient);
}
