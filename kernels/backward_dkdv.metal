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
typedef Spread<HEAD_DIM, SLICE, 0> KeyRows;
typedef Spread<HEAD_DIM_V, SLICE_V, 0> ValueRows;
typedef Contract<HEAD_DIM, SLICE, 0> Keys;
typedef Contract<HEAD_DIM_V, SLICE_V, 0> Values;

// Transposed accumulators [dimension][column], as the operands fall out of
// the loads without a transpose.
struct Columns {
  Operand k[TILE_COLS * (SLICE / 8)];
  Operand v[TILE_COLS * (SLICE_V / 8)];
  Accumulator dk[TILE_COLS * (SLICE / 8)];
  Accumulator dv[TILE_COLS * (SLICE_V / 8)];
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

// Adds what rows row0 .. row0 + ROWS - 1 of one query head give.
METAL_FUNC void add_rows(thread Columns& columns,
                         device const ELEM* q,
                         device const ELEM* grad_out,
                         device const float2* stats,
                         device const float* delta,
                         constant AttentionParams& p,
                         thread const Domain& d,
                         thread const Sight& sight,
                         int row0,
                         int column0,
                         int base,
                         int base_v,
                         Lane at,
                         EXCHANGE_PARAMETER SPILL_PARAMETER uint simdgroup,
                         uint lane) {
  Accumulator s[SCORE_FRAGMENTS];
  thread Accumulator* dp = s + TILE_ROWS * TILE_COLS;
  RowStat row_stat[TILE_ROWS];
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    Operand q_rows[SLICE / 8];
    KeyRows::load_rows(row_of(q, p.q.row, row, d.len_q), base, at, q_rows);
    contract<SLICE / 8>(q_rows, columns.k, s + t * TILE_COLS);
    Operand grad_rows[SLICE_V / 8];
    ValueRows::load_rows(row_of(grad_out, p.grad_out.row, row, d.len_q), base_v,
                         at, grad_rows);
    contract<SLICE_V / 8>(grad_rows, columns.v, dp + t * TILE_COLS);
    row_stat[t] = row_stat_of(stats, delta, row, d.len_q);
  }
  SUM_SLICES(s);
  if (sight.is_edge) {
    differentiate<1, 0>(p, d, sight.kept, row0, column0, at, columns.unit,
                        row_stat, s, dp);
  } else {
    differentiate<0, 0>(p, d, sight.kept, row0, column0, at, columns.unit,
                        row_stat, s, dp);
  }
  fit_unit<TILE_COLS*(SLICE / 8)>(dp, columns.unit, columns.dk);
  SPILL_TILE(dp, columns.unit)
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + 2 * at.pair;
    Operand grad_columns[SLICE_V / 8];
    Values::load_columns(row_of(grad_out, p.grad_out.row, row, d.len_q),
                         row_of(grad_out, p.grad_out.row, row + 1, d.len_q),
                         base_v, at, grad_columns);
    accumulate<SLICE_V / 8>(grad_columns, s + t * TILE_COLS, columns.dv);
    Operand q_columns[SLICE / 8];
    Keys::load_columns(row_of(q, p.q.row, row, d.len_q),
                       row_of(q, p.q.row, row + 1, d.len_q), base, at,
                       q_columns);
    accumulate<SLICE / 8>(q_columns, dp + t * TILE_COLS, columns.dk);
  }
}

METAL_FUNC void clear(thread Columns& columns) {
  clear_all<TILE_COLS*(SLICE / 8)>(columns.dk);
  clear_all<TILE_COLS*(SLICE_V / 8)>(columns.dv);
}

// `dk`, `dv`: row 0 of the sequence.
METAL_FUNC void store(thread Columns& columns,
                      device ELEM* dk,
                      device ELEM* dv,
                      constant AttentionParams& p,
                      int len_kv,
                      int column0,
                      int base,
                      int base_v,
                      Lane at,
                      Kept kept) {
#if HAS_DROPOUT
  float value_scale = p.keep_scale;
#else
  float value_scale = 1.0f;
#endif
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * at.pair;
    Keys::store_columns(dk + column * p.dk.row, p.dk.row, len_kv - column, base,
                        at, p.scale / columns.unit, kept,
                        columns.dk + c * (SLICE / 8));
    Values::store_columns(dv + column * p.dv.row, p.dv.row, len_kv - column,
                          base_v, at, value_scale, kept,
                          columns.dv + c * (SLICE_V / 8));
  }
}

#if IS_CARRIED
// What a simdgroup leaves to the next launch, and takes up there: dk and dv,
// and a fragment of the unit, of the blocks of a part and of whether memory has
// one.
#define KEY_SUMS (TILE_COLS * (SLICE / 8))
#define VALUE_SUMS (TILE_COLS * (SLICE_V / 8))
#define COLUMN_SUMS (KEY_SUMS + VALUE_SUMS + 1)

METAL_FUNC void resume(thread Columns& columns,
                       thread Kept& kept,
                       thread int& blocks,
                       device const float* from) {
  load_sums<KEY_SUMS>(from, columns.dk);
  load_sums<VALUE_SUMS>(from + 64 * KEY_SUMS, columns.dv);
  float2 rest = *(device const float2*)(from + 64 * (KEY_SUMS + VALUE_SUMS));
#if SUMS_IN_PARTS
  kept.is_there = rest.x != 0.0f;
#else
  columns.unit = rest.x;
#endif
  blocks = int(rest.y);
}

METAL_FUNC void interrupt(thread Columns& columns,
                          thread const Kept& kept,
                          int blocks,
                          device float* to) {
  store_sums<KEY_SUMS>(to, columns.dk);
  store_sums<VALUE_SUMS>(to + 64 * KEY_SUMS, columns.dv);
#if SUMS_IN_PARTS
  float state = kept.is_there ? 1.0f : 0.0f;
#else
  float state = columns.unit;
#endif
  *(device float2*)(to + 64 * (KEY_SUMS + VALUE_SUMS)) =
      float2(state, float(blocks));
}
#endif

[[kernel, max_total_threads_per_threadgroup(THREADS_AT_MOST)]] void
backward_dkdv(device const ELEM* q [[buffer(SLOT_Q)]],
              device const ELEM* k [[buffer(SLOT_K)]],
              device const ELEM* v [[buffer(SLOT_V)]],
              device const ELEM* grad_out [[buffer(SLOT_GRAD_OUT)]],
              device const float2* stats [[buffer(SLOT_STATS)]],
              device const float* delta [[buffer(SLOT_DELTA)]],
              device ELEM* dk [[buffer(SLOT_DK)]],
              device ELEM* dv [[buffer(SLOT_DV)]],
              DOMAIN_ARGUMENTS SPILL_ARGUMENTS WALK_ARGUMENTS
                  constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
              uint3 group [[threadgroup_position_in_grid]],
              uint simdgroup [[simdgroup_index_in_threadgroup]],
              uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Place place = place_of(p, group, simdgroup, lane);
  Lane at = place.at;
  int base = place.base;
  int base_v = place.base_v;
  int tile = place.tile;
#if SPILLS
  int group_column0 = chunk.column0 + place.grid_x * COLS * TILES;
  int pair = chunk.first_pair + place.grid_y;
  int head_kv = pair % (p.heads_q / p.group);
  int batch = pair / (p.heads_q / p.group);
#else
  int group_column0 = place.grid_x * COLS * TILES;
  int head_kv = place.grid_y;
  int batch = place.grid_z;
#endif
  int column0 = group_column0 + tile * COLS;
  Domain d;
  SET_EXTENT(d);
  if (d.len_kv == 0) return;  // all threads alike
  q += batch * p.q.batch + d.first_q * p.q.row;
  grad_out += batch * p.grad_out.batch + d.first_q * p.grad_out.row;
  k += batch * p.k.batch + head_kv * p.k.head + d.first_kv * p.k.row;
  v += batch * p.v.batch + head_kv * p.v.head + d.first_kv * p.v.row;

  Columns columns;
  columns.unit = FIRST_UNIT;
  clear(columns);
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * at.pair;
    KeyRows::load_columns(row_of(k, p.k.row, column, d.len_kv),
                          row_of(k, p.k.row, column + 1, d.len_kv), base, at,
                          columns.k + c * (SLICE / 8));
    ValueRows::load_columns(row_of(v, p.v.row, column, d.len_kv),
                            row_of(v, p.v.row, column + 1, d.len_kv), base_v,
                            at, columns.v + c * (SLICE_V / 8));
  }

  dk += batch * p.dk.batch + head_kv * p.dk.head + d.first_kv * p.dk.row;
  dv += batch * p.dv.batch + head_kv * p.dv.head + d.first_kv * p.dv.row;
  Kept kept = kept_nothing();
#if SUMS_IN_PARTS || IS_CARRIED
  int blocks = 0;
#endif
  // With barriers inside, all tiles of a threadgroup walk the same rows.
  int first = SPLIT > 1 ? group_column0 : column0;
  int last = min(first + (SPLIT > 1 ? COLS * TILES : COLS), d.len_kv) - 1;
  Range seen = visible_rows(p, d, first, last);
#if IS_CARRIED
  walk_sums =
      walk_sums_of(walk_sums, group, groups, simdgroup, lane, COLUMN_SUMS);
  if (is_walk_begun(p)) resume(columns, kept, blocks, walk_sums);
  seen.begin = max(seen.begin, p.walk_row);
  seen.end = min(seen.end, p.walk_row_end);
  for (int member = p.walk_head; member < p.walk_head_end; ++member) {
#else
  for (int member = 0; member < p.group; ++member) {
#endif
    int head = head_kv * p.group + member;
    SET_HEAD(d, head)
    long first_row = batch * p.rows.batch + head * p.rows.head + d.first_q;
    for (int block = seen.begin / ROWS; block * ROWS < seen.end; ++block) {
      int row0 = block * ROWS;
      Sight sight = look(p, d, row0, column0, 0, COLS, tile, at);
      SET_SPILL(place.grid_y * p.group + member)
      if (sight.is_empty) {
        SPILL_ZEROS(columns.unit)
        continue;
      }
#if SUMS_IN_PARTS
      if (is_part_over(blocks, ROWS, PART_ROWS)) {
        store(columns, dk, dv, p, d.len_kv, column0, base, base_v, at, kept);
        clear(columns);
        kept.is_there = true;
      }
#endif
      add_rows(columns, q + head * p.q.head, grad_out + head * p.grad_out.head,
               stats + first_row, delta + first_row, p, d, sight, row0, column0,
               base, base_v, at, EXCHANGE_PASSED SPILL_PASSED simdgroup, lane);
    }
  }

#if IS_CARRIED
  if (!p.is_walk_over) {
    interrupt(columns, kept, blocks, walk_sums);
    return;
  }
#endif
  store(columns, dk, dv, p, d.len_kv, column0, base, base_v, at, kept);
}
