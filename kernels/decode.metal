// kernels/decode.metal: a few queries against a long cache of keys, cut into
// splits that run side by side; combine.metal adds them up in their order.
// The query heads of a key head share a tile, so each key is read once.
//
// Grid: (ceil(splits / TILES), heads_kv * row tiles, batch) threadgroups of
// 32 * SIMDGROUPS threads; each tile of scores makes one split.
#define SCORE_FRAGMENTS (TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/attend.h"

#if IS_PAGED
#define TABLE_ARGUMENT device const int *table [[buffer(SLOT_TABLE)]],
#else
#define TABLE_ARGUMENT
#endif
#if HAS_LEFT_PADS
#define LEFT_PADS_ARGUMENT \
  device const int *left_pads [[buffer(SLOT_LEFT_PADS)]],
#else
#define LEFT_PADS_ARGUMENT
#endif
#if HAS_CACHE_ROWS
#define CACHE_ROWS_ARGUMENT \
  device const int *cache_rows [[buffer(SLOT_CACHE_ROWS)]],
#else
#define CACHE_ROWS_ARGUMENT
#endif

// An even share of the blocks that a tile of rows sees.
METAL_FUNC Range blocks_of_split(constant AttentionParams& p,
                                 thread const Domain& d,
                                 int row0,
                                 int split) {
  Range seen = visible_columns(p, d, row0, min(row0 + ROWS, d.len_q) - 1);
  int first = seen.begin / COLS;
  int blocks = max((seen.end + COLS - 1) / COLS - first, 0);
  int share = (blocks + p.splits - 1) / p.splits;
  seen.begin = first + min(split * share, blocks);
  seen.end = first + min((split + 1) * share, blocks);
  return seen;
}

// `split_out`, `split_stats`: row 0 of this split.
METAL_FUNC void store_split(thread ForwardState& state,
                            thread const Place& place,
                            int rows,
                            int row0,
                            device float* split_out,
                            device float2* split_stats) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
    float total = row_sum(state.row_total[t]);
    if (row < rows) {
      Values::store_floats(split_out + long(row) * HEAD_DIM_V, place.base_v,
                           place.at, state.out + t * (SLICE_DIM_V / 8));
      if (place.slice == 0 && place.at.pair == 0) {
        split_stats[row] = float2(state.row_maximum[t], total);
      }
    }
  }
}

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void decode(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device float* split_out [[buffer(SLOT_SPLIT_OUT)]],
    device float2* split_stats [[buffer(SLOT_SPLIT_STATS)]],
    device const int* lengths [[buffer(SLOT_LENGTHS)]],
    TABLE_ARGUMENT LEFT_PADS_ARGUMENT CACHE_ROWS_ARGUMENT SLOPES_ARGUMENT
        constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE(exchange)
  Place place = place_of(p, group, simdgroup, lane);
  int split = place.grid_x * TILES + place.tile;
  int rows = p.group * p.len_q;
  int row_tiles = (rows + ROWS - 1) / ROWS;
  int head_kv = place.grid_y / row_tiles;
  int row0 = place.grid_y % row_tiles * ROWS;
  int batch = place.grid_z;

  Domain d;
  d.len_q = rows;
  d.group = p.group;
  d.first_q = 0;
  d.first_kv = 0;
  // The host has not looked at these numbers.  One that names a place outside
  // the cache becomes the nearest inside, here and below.
  d.len_kv = max(0, min(lengths[batch], p.len_kv));
#if HAS_LEFT_PADS
  d.first_kv = max(0, min(left_pads[batch], d.len_kv));
  d.len_kv -= d.first_kv;
#endif
  d.offset = d.len_kv - p.len_q;
#if HAS_SLOPES
  d.slopes = slopes + batch * p.slopes_batch + head_kv * p.group;
#endif
  int cache_row = batch;
#if HAS_CACHE_ROWS
  cache_row = max(0, min(cache_rows[batch], p.cache_entries - 1));
#endif
#if IS_PAGED
  cache_row = 0;  // the table says where a block of keys lies
  table += batch * p.table_row;
#endif
  q = head_of(q, p.q, batch, head_kv * p.group, 0);
  k = head_of(k, p.k, cache_row, head_kv, d.first_kv);
  v = head_of(v, p.v, cache_row, head_kv, d.first_kv);

  ForwardState state;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = min(row0 + 8 * t + place.at.row, rows - 1);
    begin_row(state, t, q + row % p.group * p.q.head + row / p.group * p.q.row,
              place);
  }

  Range blocks = blocks_of_split(p, d, row0, split);
  for (int block = blocks.begin; block < blocks.end; ++block) {
    int column0 = block * COLS;
    VisibleScores in_view = visible_scores(p, d, place, row0, column0, ROWS, 0);
#if IS_PAGED
    // A block lies in one page.  Less the page's first column, because the
    // columns of a block count from the first of all.
    long page = max(0, min(table[column0 / p.page_size], p.cache_entries - 1));
    int page_column = column0 / p.page_size * p.page_size;
    attend(state, k + (page * p.k.batch - page_column * p.k.row),
           v + (page * p.v.batch - page_column * p.v.row), p, d, place, in_view,
           row0, column0, exchange);
#else
    attend(state, k, v, p, d, place, in_view, row0, column0, exchange);
#endif
  }

  long first =
      ((long(batch) * p.heads_q / p.group + head_kv) * p.splits + split) * rows;
  store_split(state, place, split < p.splits ? rows : 0, row0,
              split_out + first * HEAD_DIM_V, split_stats + first);
}
