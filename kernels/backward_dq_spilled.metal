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

#define FRAGMENTS (TILE_ROWS * (SLICE / 8))

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
                            int len_kv,
                            int row0,
                            int column0,
                            int base,
                            uint lane,
                            Lane at,
                            thread Accumulator* gradient) {
  Operand ds[TILE_ROWS];
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    spill_load(spill, spill_fragment(chunk, row0 + 8 * t, column0), lane,
               ds[t]);
  }
  Gradients::multiply_rows(row_of(k, p.k.row, column0 + at.row, len_kv), base,
                           at, ds, gradient);
}

// Where columns come in several chunks, dq of the chunks before, as the
// accumulators that they are; in float32 it is in its place (tile/parts.h).
#if IS_SUMMED
#define SUMS_ARGUMENT device float *sums [[buffer(SLOT_DQ_SUMS)]],
#else
#define SUMS_ARGUMENT
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dq_spilled(device const ELEM* k [[buffer(SLOT_K)]],
                    device ELEM* dq [[buffer(SLOT_DQ)]],
                    device const ELEM* spill [[buffer(SLOT_SPILL)]],
                    UNITS_ARGUMENT SUMS_ARGUMENT DOMAIN_ARGUMENTS
                        constant SpillChunk& chunk [[buffer(SLOT_CHUNK)]],
                    constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
                    uint3 group [[threadgroup_position_in_grid]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]]) {
  Place place = place_of(p, group, simdgroup, lane);
  Lane at = place.at;
  int slice = place.slice;
  int base = place.base;
  int tile = (row_groups(p) - 1 - place.grid_x) * TILES + place.tile;
  int row0 = tile * ROWS;
  int head = place.grid_y;
  int head_q = chunk.first_pair * p.group + head;
  int batch = head_q / p.heads_q;
  head_q = head_q % p.heads_q;
  Domain d;
  SET_EXTENT(d);
  if (row0 >= d.len_q) return;  // a whole simdgroup leaves
  k += batch * p.k.batch + (head_q / p.group) * p.k.head + d.first_kv * p.k.row;
  dq += batch * p.dq.batch + head_q * p.dq.head + d.first_q * p.dq.row;
  spill += 64 * spill_head(chunk, head);
#if IS_HALF
  units += spill_head(chunk, head);
#endif

  Accumulator gradient[FRAGMENTS];
  clear_all<FRAGMENTS>(gradient);
  Kept kept = kept_nothing();
#if SUMS_IN_PARTS
  int blocks = 0;
  kept.is_there = chunk.column0 > 0;
#endif
#if IS_SUMMED
  sums += (long(head * row_groups(p) * TILES + tile) * SPLIT + slice) *
              (FRAGMENTS * 64) +
          2 * lane;
  if (chunk.column0 > 0) {
    load_sums<FRAGMENTS>(sums, gradient);
    multiply_all<FRAGMENTS>(gradient, FIRST_UNIT);
  }
#endif
  float unit = FIRST_UNIT;
  int last = min(row0 + ROWS, d.len_q) - 1;
  Range seen = visible_columns(p, d, row0, last);
  seen.begin = max(seen.begin, chunk.column0);
  seen.end = min(seen.end, chunk.column_end);
  seen = unless_empty(seen, true);
  int block = seen.begin / COLS;
  int end = (seen.end + COLS - 1) / COLS;
#if IS_HALF
  if (has_other_unit(units + spill_fragment(chunk, row0, block * COLS),
                     (end - block) * TILE_COLS, unit, lane)) {
    for (; block < end; ++block) {
#pragma clang loop unroll(full)
      for (int c = 0; c < TILE_COLS; ++c) {
        int column0 = block * COLS + 8 * c;
        follow_unit(units[spill_fragment(chunk, row0, column0)], unit,
                    gradient);
        add_columns(k, spill, chunk, p, d.len_kv, row0, column0, base, lane, at,
                    gradient);
      }
    }
  }
#endif
  for (; block < end; ++block) {
#if SUMS_IN_PARTS
    if (is_part_over(blocks, COLS, PART_COLUMNS)) {
      store_dq(dq, p, d.len_q, row0, base, at, p.scale, kept, gradient);
      clear_all<FRAGMENTS>(gradient);
      kept.is_there = true;
    }
#endif
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      add_columns(k, spill, chunk, p, d.len_kv, row0, block * COLS + 8 * c,
                  base, lane, at, gradient);
    }
  }
#if IS_SUMMED
  if (!chunk.is_last) {
    multiply_all<FRAGMENTS>(gradient, 1.0f / unit);
    store_sums<FRAGMENTS>(sums, gradient);
    return;
  }
#endif
  store_dq(dq, p, d.len_q, row0, base, at, p.scale / unit, kept, gradient);
}
