// kernels/backward_dkdv.metal: dv = p^T grad_out and dk = scale * ds^T q for a
// tile of columns, walking the rows of every query head of its group: grouped
// heads need no reduction afterwards, and nothing needs atomics.  If SPILLS, it
// leaves ds to backward_dq_spilled.
//
// Grid: (ceil(len_kv / (COLS * TILES)), heads_kv, batch) threadgroups of
// 32 * SIMDGROUPS threads; if SPILLS, (columns of the chunk, its key heads, 1).
#define SCORE_FRAGMENTS (2 * TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"
#include "tile/gradient.h"
#include "tile/unit.h"
#include "tile/spill.h"
#include "tile/carry.h"

// Rows of q and grad_out are read in two orders: as left operands against k
// and v, and transposed, to add up dk and dv.
typedef Spread<HEAD_DIM, SLICE_DIM, 0> KeyRows;
typedef Spread<HEAD_DIM_V, SLICE_DIM_V, 0> ValueRows;
typedef Contract<HEAD_DIM, SLICE_DIM, 0> Keys;
typedef Contract<HEAD_DIM_V, SLICE_DIM_V, 0> Values;

// Transposed accumulators [dimension][column], as the operands fall out of
// the loads without a transpose.
struct Columns {
  Operand k[TILE_COLS * (SLICE_DIM / 8)];
  Operand v[TILE_COLS * (SLICE_DIM_V / 8)];
  Accumulator dk[TILE_COLS * (SLICE_DIM / 8)];
  Accumulator dv[TILE_COLS * (SLICE_DIM_V / 8)];
  float unit;  // of dk
};

// s[c] = sum over dimensions of rows * columns[c], one row fragment.
template <int FRAGMENTS>
METAL_FUNC void contract(thread const Operand* rows,
                         thread const Operand* columns,
                         thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) s[c] = zero_accumulator();
#pragma clang loop unroll(full)
  for (int f = 0; f < FRAGMENTS; ++f) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      multiply_add(s[c], rows[f], columns[c * FRAGMENTS + f]);
    }
  }
}

// acc[c] += rows^T * weights[c], one row fragment.
template <int FRAGMENTS>
METAL_FUNC void accumulate(thread const Operand* rows,
                           thread Accumulator* weights,
                           thread Accumulator* acc) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    Operand rounded;
    round_to_operand(rounded, weights[c]);
#pragma clang loop unroll(full)
    for (int f = 0; f < FRAGMENTS; ++f) {
      multiply_add(acc[c * FRAGMENTS + f], rows[f], rounded);
    }
  }
}

// Reads the tile's columns of k and v.
METAL_FUNC void load_columns(thread Columns& columns,
                             device const ELEM* k,
                             device const ELEM* v,
                             constant AttentionParams& p,
                             thread const Place& place,
                             int len_kv,
                             int column0) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * place.at.pair;
    KeyRows::load_columns(row_of(k, p.k.row, column, len_kv),
                          row_of(k, p.k.row, column + 1, len_kv), place.base,
                          place.at, columns.k + c * (SLICE_DIM / 8));
    ValueRows::load_columns(row_of(v, p.v.row, column, len_kv),
                            row_of(v, p.v.row, column + 1, len_kv),
                            place.base_v, place.at,
                            columns.v + c * (SLICE_DIM_V / 8));
  }
}

// What the rows of one query head are read from; each at row 0.
struct Head {
  device const ELEM* q;
  device const ELEM* grad_out;
  device const float2* stats;
  device const float* delta;
};

// Scores and output gradients of a tile: this simdgroup's slice of head_dim.
METAL_FUNC void multiply_rows(thread const Columns& columns,
                              thread const Head& head,
                              constant AttentionParams& p,
                              thread const Place& place,
                              int len_q,
                              int row0,
                              thread RowStat* row_stat,
                              thread Accumulator* s,
                              thread Accumulator* dp) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + place.at.row;
    Operand q_rows[SLICE_DIM / 8];
    KeyRows::load_rows(row_of(head.q, p.q.row, row, len_q), place.base,
                       place.at, q_rows);
    contract<SLICE_DIM / 8>(q_rows, columns.k, s + t * TILE_COLS);
    Operand grad_rows[SLICE_DIM_V / 8];
    ValueRows::load_rows(row_of(head.grad_out, p.grad_out.row, row, len_q),
                         place.base_v, place.at, grad_rows);
    contract<SLICE_DIM_V / 8>(grad_rows, columns.v, dp + t * TILE_COLS);
    row_stat[t] = row_stat_of(head.stats, head.delta, row, len_q);
  }
}

// dv += weights^T grad_out, dk += ds^T q.
METAL_FUNC void add_products(thread Columns& columns,
                             thread const Head& head,
                             constant AttentionParams& p,
                             thread const Place& place,
                             int len_q,
                             int row0,
                             thread Accumulator* weights,
                             thread Accumulator* ds) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + 2 * place.at.pair;
    Operand grad_columns[SLICE_DIM_V / 8];
    Values::load_columns(row_of(head.grad_out, p.grad_out.row, row, len_q),
                         row_of(head.grad_out, p.grad_out.row, row + 1, len_q),
                         place.base_v, place.at, grad_columns);
    accumulate<SLICE_DIM_V / 8>(grad_columns, weights + t * TILE_COLS,
                                columns.dv);
    Operand q_columns[SLICE_DIM / 8];
    Keys::load_columns(row_of(head.q, p.q.row, row, len_q),
                       row_of(head.q, p.q.row, row + 1, len_q), place.base,
                       place.at, q_columns);
    accumulate<SLICE_DIM / 8>(q_columns, ds + t * TILE_COLS, columns.dk);
  }
}

// Adds what rows row0 .. row0 + ROWS - 1 of one query head give.
METAL_FUNC void add_rows(thread Columns& columns,
                         thread const Head& head,
                         constant AttentionParams& p,
                         thread const Domain& d,
                         thread const Place& place,
                         thread const VisibleScores& in_view,
                         int row0,
                         int column0,
                         thread Exchange& exchange,
                         thread const Spill& spill) {
  Accumulator s[SCORE_FRAGMENTS];
  thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
  RowStat row_stat[TILE_ROWS];
  multiply_rows(columns, head, p, place, d.len_q, row0, row_stat, s, dp);
  sum_slices(s, exchange, place);
  if (in_view.is_edge) {
    differentiate<1, 0>(p, d, in_view.kept, row0, column0, place.at,
                        columns.unit, row_stat, s, dp);
  } else {
    differentiate<0, 0>(p, d, in_view.kept, row0, column0, place.at,
                        columns.unit, row_stat, s, dp);
  }
  fit_unit<TILE_COLS*(SLICE_DIM / 8)>(dp, columns.unit, columns.dk);
  spill_tile(spill, place, columns.unit, dp);
  add_products(columns, head, p, place, d.len_q, row0, s, dp);
}

METAL_FUNC void clear(thread Columns& columns) {
  clear_all<TILE_COLS*(SLICE_DIM / 8)>(columns.dk);
  clear_all<TILE_COLS*(SLICE_DIM_V / 8)>(columns.dv);
}

// `dk`, `dv`: row 0 of the sequence.
METAL_FUNC void store(thread Columns& columns,
                      device RESULT* dk,
                      device RESULT* dv,
                      constant AttentionParams& p,
                      thread const Place& place,
                      int len_kv,
                      int column0,
                      Stored stored) {
#if HAS_DROPOUT
  float value_scale = p.keep_scale;
#else
  float value_scale = 1.0f;
#endif
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * place.at.pair;
    Keys::store_columns(dk + column * p.dk.row, p.dk.row, len_kv - column,
                        place.base, place.at, p.scale / columns.unit, stored,
                        columns.dk + c * (SLICE_DIM / 8));
    Values::store_columns(dv + column * p.dv.row, p.dv.row, len_kv - column,
                          place.base_v, place.at, value_scale, stored,
                          columns.dv + c * (SLICE_DIM_V / 8));
  }
}

#if SUMS_IN_PARTS
// Adds what there is to memory (tile/parts.h), and begins anew.
METAL_FUNC void store_part(thread Columns& columns,
                           device RESULT* dk,
                           device RESULT* dv,
                           constant AttentionParams& p,
                           thread const Place& place,
                           int len_kv,
                           int column0,
                           thread Stored& stored) {
  store(columns, dk, dv, p, place, len_kv, column0, stored);
  clear(columns);
  stored.is_there = true;
}
#endif

#if IS_CARRIED
// What a simdgroup leaves to the next launch, and takes up there: dk and dv,
// and a fragment of the unit, of the blocks of a part and of whether memory has
// one.
#define KEY_SUMS (TILE_COLS * (SLICE_DIM / 8))
#define VALUE_SUMS (TILE_COLS * (SLICE_DIM_V / 8))
#define COLUMN_SUMS (KEY_SUMS + VALUE_SUMS + 1)

METAL_FUNC void resume(thread Columns& columns,
                       thread Stored& stored,
                       thread int& blocks,
                       device const float* from) {
  load_sums<KEY_SUMS>(from, columns.dk);
  load_sums<VALUE_SUMS>(from + 64 * KEY_SUMS, columns.dv);
  float2 rest = *(device const float2*)(from + 64 * (KEY_SUMS + VALUE_SUMS));
#if SUMS_IN_PARTS
  stored.is_there = rest.x != 0.0f;
#else
  columns.unit = rest.x;
#endif
  blocks = int(rest.y);
}

METAL_FUNC void interrupt(thread Columns& columns,
                          thread const Stored& stored,
                          int blocks,
                          device float* to) {
  store_sums<KEY_SUMS>(to, columns.dk);
  store_sums<VALUE_SUMS>(to + 64 * KEY_SUMS, columns.dv);
#if SUMS_IN_PARTS
  float state = stored.is_there ? 1.0f : 0.0f;
#else
  float state = columns.unit;
#endif
  *(device float2*)(to + 64 * (KEY_SUMS + VALUE_SUMS)) =
      float2(state, float(blocks));
}
#endif

// Where a tile of columns lies.
struct KeyTile {
  int batch;
  int head;
  int column0;
};

METAL_FUNC KeyTile key_tile_of(constant AttentionParams& p,
                               thread const Place& place,
                               thread const SpillBuffers& buffers) {
  KeyTile tile;
  tile.column0 = (place.grid_x * TILES + place.tile) * COLS;
#if SPILLS
  int heads_kv = p.heads_q / p.group;
  int pair = buffers.chunk->first_pair + place.grid_y;
  tile.head = pair % heads_kv;
  tile.batch = pair / heads_kv;
  tile.column0 += buffers.chunk->column0;
#else
  tile.head = place.grid_y;
  tile.batch = place.grid_z;
#endif
  return tile;
}

// The rows that it walks.  With barriers inside, all tiles of a threadgroup
// walk the same.
METAL_FUNC Range rows_of_tile(constant AttentionParams& p,
                              thread const Domain& d,
                              thread const Place& place,
                              int column0) {
  int first = SLICES > 1 ? column0 - place.tile * COLS : column0;
  int last = min(first + (SLICES > 1 ? COLS * TILES : COLS), d.len_kv) - 1;
  return visible_rows(p, d, first, last);
}

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dkdv(device const ELEM* q [[buffer(SLOT_Q)]],
              device const ELEM* k [[buffer(SLOT_K)]],
              device const ELEM* v [[buffer(SLOT_V)]],
              device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
              device const float2* stats [[buffer(SLOT_STATS)]],
              device const float* delta [[buffer(SLOT_DELTA)]],
              device RESULT* dk [[buffer(SLOT_DK)]],
              device RESULT* dv [[buffer(SLOT_DV)]],
              DOMAIN_ARGUMENTS SPILL_ARGUMENTS WALK_ARGUMENTS
                  constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
              uint3 group [[threadgroup_position_in_grid]],
              uint simdgroup [[simdgroup_index_in_threadgroup]],
              uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE(exchange)
  GATHER_DOMAIN(tensors)
  Place place = place_of(p, group, simdgroup, lane);
  GATHER_SPILL(buffers)
  KeyTile tile = key_tile_of(p, place, buffers);
  int batch = tile.batch;
  int head_kv = tile.head;
  int column0 = tile.column0;
  Domain d = domain_of(p, tensors, batch);
  if (d.len_kv == 0) return;  // all threads alike
  dk = head_of(dk, p.dk, batch, head_kv, d.first_kv);
  dv = head_of(dv, p.dv, batch, head_kv, d.first_kv);

  Columns columns;
  columns.unit = FIRST_UNIT;
  clear(columns);
  load_columns(columns, head_of(k, p.k, batch, head_kv, d.first_kv),
               head_of(v, p.v, batch, head_kv, d.first_kv), p, place, d.len_kv,
               column0);
  Stored stored = nothing_stored();
#if SUMS_IN_PARTS || IS_CARRIED
  int blocks = 0;
#endif
  Range seen = rows_of_tile(p, d, place, column0);
  Range members = {0, p.group};
#if IS_CARRIED
  walk_sums = walk_sums_of(walk_sums, group, groups, place, COLUMN_SUMS);
  if (is_walk_begun(p)) resume(columns, stored, blocks, walk_sums);
  seen = rows_of_walk(p, seen);
  members = {p.walk_head, p.walk_head_end};
#endif
  for (int member = members.begin; member < members.end; ++member) {
    int head = head_kv * p.group + member;
    enter_head(d, p, tensors, batch, head);
    long first_row = row_of_all(p, batch, head, d.first_q);
    Head rows = {head_of(q, p.q, batch, head, d.first_q),
                 head_of(grad_out, p.grad_out, batch, head, d.first_q),
                 stats + first_row, delta + first_row};
    for (int block = seen.begin / ROWS; block * ROWS < seen.end; ++block) {
      int row0 = block * ROWS;
      VisibleScores in_view =
          visible_scores(p, d, place, row0, column0, 0, COLS);
      Spill spill =
          spill_of(buffers, place.grid_y * p.group + member, row0, column0);
      if (in_view.is_empty) {
        spill_zeros(spill, place, columns.unit);
        continue;
      }
#if SUMS_IN_PARTS
      if (is_part_over(blocks, ROWS, PART_ROWS)) {
        store_part(columns, dk, dv, p, place, d.len_kv, column0, stored);
      }
#endif
      add_rows(columns, rows, p, d, place, in_view, row0, column0, exchange,
               spill);
    }
  }
#if IS_CARRIED
  if (!p.is_walk_over) {
    interrupt(columns, stored, blocks, walk_sums);
    return;
  }
#endif
  store(columns, dk, dv, p, place, d.len_kv, column0, stored);
}
