// kernels/backward_dbias.metal: the gradient of a float mask: of the scores
// where the bias is added, summed over every dimension that the mask has only
// one of.  A tile of the mask has one writer that walks what it was broadcast
// to, in a fixed order: no atomics.
//
// Grid: (ceil(mask_columns / (COLS * TILES)), ceil(mask_rows / ROWS),
// mask_batches * mask_heads) threadgroups of 32 * SIMDGROUPS threads.
#define SCORE_FRAGMENTS (2 * TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/gradient.h"
#include "tile/rows.h"
#include "tile/carry.h"
#include "tile/dbias.h"

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dbias(device const ELEM* q_all [[buffer(SLOT_Q)]],
               device const ELEM* k_all [[buffer(SLOT_K)]],
               device const ELEM* v_all [[buffer(SLOT_V)]],
               device const ELEM* grad_out_all [[buffer(SLOT_GRAD_OUT)]],
               device const float2* stats [[buffer(SLOT_STATS)]],
               device const float* delta [[buffer(SLOT_DELTA)]],
               device MASK_ELEM* dbias [[buffer(SLOT_DBIAS)]],
               DOMAIN_ARGUMENTS WALK_ARGUMENTS constant AttentionParams& p
               [[buffer(SLOT_PARAMS)]],
               uint3 group [[threadgroup_position_in_grid]],
               uint simdgroup [[simdgroup_index_in_threadgroup]],
               uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE(exchange)
  GATHER_DOMAIN(tensors)
  Place place = place_of(p, group, simdgroup, lane);
  int row0 = place.grid_y * ROWS;
  int column0 = (place.grid_x * TILES + place.tile) * COLS;
  // Along a dimension that it was broadcast to, a tile walks all blocks; tiles
  // beside the first do the same, for the barriers, and write nothing.
  MaskExtent all = mask_extent(p, place.grid_z, row0, column0);
  int column_step = p.mask_columns == 1 ? 0 : COLS;

  DbiasSums sums;
  begin_sums(sums);
#if IS_CARRIED
  walk_sums =
      walk_sums_of(walk_sums, group, groups, place, DBIAS_SUMS_FRAGMENTS);
  if (is_walk_begun(p)) resume_sums(sums, walk_sums);
#endif
  for (int batch = all.batch; batch < all.batch_end; ++batch) {
    for (int head = all.head; head < all.head_end; ++head) {
#if IS_CARRIED
      int counted =
          (batch - all.batch) * (all.head_end - all.head) + head - all.head;
      if (counted < p.walk_head || counted >= p.walk_head_end) continue;
#endif
      Domain d = domain_of(p, tensors, batch);
      enter_head(d, p, tensors, batch, head);
      device const ELEM* q = head_of(q_all, p.q, batch, head, 0);
      device const ELEM* k = head_of(k_all, p.k, batch, head / p.group, 0);
      device const ELEM* v = head_of(v_all, p.v, batch, head / p.group, 0);
      device const ELEM* grad_out =
          head_of(grad_out_all, p.grad_out, batch, head, 0);
      long first_row = row_of_all(p, batch, head, 0);
      for (int row = all.row; row < all.row_end; row += ROWS) {
        Rows rows;
        load_tile(rows, q, grad_out, stats + first_row, delta + first_row, p,
                  place, d.len_q, row);
        for (int column = all.column; column < all.column_end; column += COLS) {
          VisibleScores in_view =
              visible_scores(p, d, place, row, column, 0, column_step);
          if (in_view.is_empty) continue;
          Accumulator s[SCORE_FRAGMENTS];
          thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
          multiply_columns(rows, k, v, p, place, d.len_kv, column, s, dp);
          sum_slices(s, exchange, place);
          differentiate<1, 1>(p, d, in_view.kept, row, column, place.at, 1.0f,
                              rows.stats, s, dp);
          add_block(sums, dp);
        }
      }
    }
  }
#if IS_CARRIED
  if (!p.is_walk_over) {
    interrupt_sums(sums, walk_sums);
    return;
  }
#endif
  if (place.slice == 0) {
    store_dbias(dbias + long(place.grid_z) * p.mask_rows * p.mask_columns, p,
                row0, column0, place.at, sums);
  }
}
