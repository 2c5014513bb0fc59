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
#include "tile/mask_gradient.h"

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dbias(device const ELEM* q_all [[buffer(SLOT_Q)]],
               device const ELEM* k_all [[buffer(SLOT_K)]],
               device const ELEM* v_all [[buffer(SLOT_V)]],
               device const ELEM* grad_out_all [[buffer(SLOT_GRAD_OUT)]],
               device const float2* stats [[buffer(SLOT_STATS)]],
               device const float* delta [[buffer(SLOT_DELTA)]],
               device MASK_ELEM* grad_mask [[buffer(SLOT_GRAD_MASK)]],
               DOMAIN_ARGUMENTS WALK_ARGUMENTS constant AttentionParams& p
               [[buffer(SLOT_PARAMS)]],
               uint3 group [[threadgroup_position_in_grid]],
               uint simdgroup [[simdgroup_index_in_threadgroup]],
               uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Place place = place_of(p, group, simdgroup, lane);
  Lane at = place.at;
  int base = place.base;
  int base_v = place.base_v;
  int tile = place.tile;
  int row0 = place.grid_y * ROWS;
  int column0 = (place.grid_x * TILES + tile) * COLS;
  // Along a dimension that it was broadcast to, a tile walks all blocks; tiles
  // beside the first do the same, for the barriers, and write nothing.
  MaskExtent all = mask_extent(p, place.grid_z, row0, column0);
  int column_step = p.mask_columns == 1 ? 0 : COLS;

  MaskSums sums;
  begin_sums(sums);
#if IS_CARRIED
  walk_sums = walk_sums_of(walk_sums, group, groups, simdgroup, lane,
                           MASK_SUMS_FRAGMENTS);
  if (is_walk_begun(p)) resume_sums(sums, walk_sums);
#endif
  for (int batch = all.batch; batch < all.batch_end; ++batch) {
    for (int head = all.head; head < all.head_end; ++head) {
#if IS_CARRIED
      int counted =
          (batch - all.batch) * (all.head_end - all.head) + head - all.head;
      if (counted < p.walk_head || counted >= p.walk_head_end) continue;
#endif
      Domain d;
      SET_EXTENT(d);
      SET_HEAD(d, head)
      device const ELEM* q = q_all + batch * p.q.batch + head * p.q.head;
      device const ELEM* k =
          k_all + batch * p.k.batch + (head / p.group) * p.k.head;
      device const ELEM* v =
          v_all + batch * p.v.batch + (head / p.group) * p.v.head;
      device const ELEM* grad_out =
          grad_out_all + batch * p.grad_out.batch + head * p.grad_out.head;
      long first_row = batch * p.rows.batch + head * p.rows.head;
      for (int row = all.row; row < all.row_end; row += ROWS) {
        Rows rows;
        load_tile(rows, q, grad_out, stats + first_row, delta + first_row, p,
                  d.len_q, row, base, base_v, at);
        for (int column = all.column; column < all.column_end; column += COLS) {
          Sight sight = look(p, d, row, column, 0, column_step, tile, at);
          if (sight.is_empty) continue;
          Accumulator s[SCORE_FRAGMENTS];
          thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
          multiply_columns(rows, k, v, p, d.len_kv, column, base, base_v, at, s,
                           dp);
          SUM_SLICES(s);
          differentiate<1, 1>(p, d, sight.kept, row, column, at, 1.0f,
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
    store_mask(grad_mask + long(place.grid_z) * p.mask_rows * p.mask_columns, p,
               row0, column0, at, sums);
  }
}
