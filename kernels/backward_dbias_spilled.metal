// kernels/backward_dbias_spilled.metal: the gradient of a float mask from the
// ds that backward_dkdv left of all heads and columns: sums over what the mask
// was broadcast to, in a fixed order, one writer an element.
//
// Grid: (ceil(mask_columns / (8 * SIMDGROUPS)), ceil(mask_rows / 8),
// mask_batches * mask_heads) threadgroups of 32 * SIMDGROUPS threads; one
// simdgroup a fragment.
#include "tile/prelude.h"
#include "tile/dbias.h"
#include "tile/spill.h"

// Adds the fragment at row, column of one query head, if there is one.
METAL_FUNC void add_fragment(thread DbiasSums& sums,
                             device const ELEM* spill,
                             UNITS_PARAMETER constant SpillChunk& chunk,
                             constant AttentionParams& p,
                             thread const Domain& d,
                             int head,
                             int row,
                             int column,
                             uint lane) {
  Range seen = visible_columns(p, d, row, min(row + 8, d.len_q) - 1);
  if (column >= seen.end || column + 8 <= seen.begin) return;
  Operand ds;
  Index index = spill_fragment(chunk, row, column);
  long before = spill_head(chunk, head);
  spill_load(spill + 64 * before, index, lane, ds);
#if IS_HALF
  float factor = 1.0f / units[before + index];
#else
  float factor = 1.0f;
#endif
  Accumulator block[1];
  block[0].thread_elements()[0] = float(ds.thread_elements()[0]) * factor;
  block[0].thread_elements()[1] = float(ds.thread_elements()[1]) * factor;
  add_block(sums, block);
}

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dbias_spilled(device MASK_ELEM* dbias [[buffer(SLOT_DBIAS)]],
                       device const ELEM* spill [[buffer(SLOT_SPILL)]],
                       UNITS_ARGUMENT constant SpillChunk& chunk
                       [[buffer(SLOT_CHUNK)]],
                       constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
  DomainTensors tensors;  // that it reads none of
  Place place = place_of(p, group, simdgroup, lane);
  int row0 = place.grid_y * ROWS;
  int column0 = (place.grid_x * SIMDGROUPS + int(simdgroup)) * COLS;
  if (column0 >= p.mask_columns) return;  // a whole simdgroup leaves
  MaskExtent all = mask_extent(p, place.grid_z, row0, column0);
  Domain d = domain_of(p, tensors, 0);
  DbiasSums sums;
  begin_sums(sums);
  for (int batch = all.batch; batch < all.batch_end; ++batch) {
    for (int head = all.head; head < all.head_end; ++head) {
      for (int row = all.row; row < all.row_end && row < d.len_q; row += ROWS) {
        for (int column = all.column;
             column < all.column_end && column < d.len_kv; column += COLS) {
          add_fragment(sums, spill, UNITS_PASSED chunk, p, d,
                       batch * p.heads_q + head, row, column, lane);
        }
      }
    }
  }
  store_dbias(dbias + long(place.grid_z) * p.mask_rows * p.mask_columns, p,
              row0, column0, place.at, sums);
}
