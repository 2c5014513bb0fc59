// kernels/forward.metal: out = softmax(scale * q k^T) v and its log-sum-exp,
// one pass over the keys with a running maximum (FlashAttention-2, algorithm 1;
// arXiv:2307.08691), a tile of rows per SPLIT simdgroups.
//
// Grid: (ceil(len_q / (ROWS * TILES)), heads_q, batch) threadgroups of
// 32 * SIMDGROUPS threads; row tiles run backwards, longest first when causal.
#define SCORE_FRAGMENTS (TILE_ROWS * TILE_COLS)
#include "tile/prelude.h"
#include "tile/exchange.h"

typedef Contract<HEAD_DIM, SLICE, 0> Keys;
typedef Spread<HEAD_DIM_V, SLICE_V, 0> Values;

struct ForwardState {
  Operand q[TILE_ROWS * (SLICE / 8)];
  Accumulator out[TILE_ROWS * (SLICE_V / 8)];
  float row_maximum[TILE_ROWS];  // base 2, over the row's four lanes
  float row_total[TILE_ROWS];    // this lane's share of the row's sum
};

// s = q k^T of one block of columns, before scaling.
inline void score(thread ForwardState& state,
                  device const ELEM* k,
                  constant AttentionParams& p,
                  int column0,
                  int base,
                  Lane at,
                  thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * at.pair;
    Operand keys[SLICE / 8];
    Keys::load_columns(k + column * p.k.row, p.k.row, p.len_kv - column, base,
                       at, keys);
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t)
      s[t * TILE_COLS + c] = zero_accumulator();
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE / 8; ++f) {
#pragma clang loop unroll(full)
      for (int t = 0; t < TILE_ROWS; ++t) {
        multiply_add(s[t * TILE_COLS + c], state.q[t * (SLICE / 8) + f],
                     keys[f]);
      }
    }
  }
}

// Turns scores into exp2(s - maximum) and keeps the running row statistics.
template <int IS_EDGE>
inline void soften(thread ForwardState& state,
                   constant AttentionParams& p,
                   int row0,
                   int column0,
                   Lane at,
                   thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    float largest = state.row_maximum[t];
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      int column = column0 + 8 * c + 2 * at.pair;
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        float x = s[t * TILE_COLS + c].thread_elements()[e] * p.scale_log2e;
        if (IS_EDGE) x = is_visible(p, row, column + e) ? x : MASKED_SCORE;
        s[t * TILE_COLS + c].thread_elements()[e] = x;
        largest = max(largest, x);
      }
    }
    largest = row_max(largest);
    if (simd_any(largest != state.row_maximum[t])) {
      float correction = fast::exp2(state.row_maximum[t] - largest);
      state.row_total[t] *= correction;
      Values::scale(state.out + t * (SLICE_V / 8), correction);
      state.row_maximum[t] = largest;
    }
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        float x =
            fast::exp2(s[t * TILE_COLS + c].thread_elements()[e] - largest);
        s[t * TILE_COLS + c].thread_elements()[e] = x;
        state.row_total[t] += x;
      }
    }
  }
}

// out += p v
inline void gather(thread ForwardState& state,
                   device const ELEM* v,
                   constant AttentionParams& p,
                   int column0,
                   int base,
                   Lane at,
                   thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    Operand weights[TILE_ROWS];
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t) {
      set_pair(weights[t], ELEM(s[t * TILE_COLS + c].thread_elements()[0]),
               ELEM(s[t * TILE_COLS + c].thread_elements()[1]));
    }
    int column = column0 + 8 * c + at.row;
    Values::multiply_rows(v + column * p.v.row, column < p.len_kv, base, at,
                          weights, state.out);
  }
}

[[kernel, max_total_threads_per_threadgroup(32 * SIMDGROUPS)]] void forward(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device ELEM* out [[buffer(SLOT_OUT)]],
    device float* lse [[buffer(SLOT_LSE)]],
    constant AttentionParams& p [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Lane at = lane_position(lane);
  int slice = int(simdgroup % SPLIT);
  int base = slice * SLICE;
  int base_v = slice * SLICE_V;
  int group_row0 = int(groups.x - 1 - group.x) * ROWS * TILES;
  int row0 = group_row0 + int(simdgroup / SPLIT) * ROWS;
  int head = int(group.y);
  int batch = int(group.z);
  q += batch * p.q.batch + head * p.q.head;
  k += batch * p.k.batch + (head / p.group) * p.k.head;
  v += batch * p.v.batch + (head / p.group) * p.v.head;

  ForwardState state;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    Keys::load_rows(q + row * p.q.row, row < p.len_q, base, at,
                    state.q + t * (SLICE / 8));
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE_V / 8; ++f) {
      state.out[t * (SLICE_V / 8) + f] = zero_accumulator();
    }
    state.row_maximum[t] = FLOOR_SCORE;
    state.row_total[t] = 0.0f;
  }

  // With barriers inside, all tiles of a threadgroup walk the same blocks.
  int first = SPLIT > 1 ? group_row0 : row0;
  int last = min(first + (SPLIT > 1 ? ROWS * TILES : ROWS), p.len_q) - 1;
  Range seen = visible_columns(p, first, last);
  if (last < first) seen.end = seen.begin;  // a tile past the last row
  for (int block = seen.begin / COLS; block * COLS < seen.end; ++block) {
    int column0 = block * COLS;
    Accumulator s[TILE_ROWS * TILE_COLS];
    score(state, k, p, column0, base, at, s);
    SUM_SLICES(s);
    if (is_interior(p, row0, row0 + ROWS - 1, column0, column0 + COLS - 1)) {
      soften<0>(state, p, row0, column0, at, s);
    } else {
      soften<1>(state, p, row0, column0, at, s);
    }
    gather(state, v, p, column0, base_v, at, s);
  }

#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    float total = row_sum(state.row_total[t]);
    bool is_empty = total == 0.0f;  // false for NaN, which must come through
    if (row < p.len_q) {
      device ELEM* to =
          out + batch * p.out.batch + head * p.out.head + row * p.out.row;
      Values::store_rows(to, base_v, at, is_empty ? 0.0f : 1.0f / total,
                         state.out + t * (SLICE_V / 8));
      if (slice == 0 && at.pair == 0) {
        long index = (long(batch) * p.heads_q + head) * p.len_q + row;
        lse[index] = is_empty
                         ? as_type<float>(0xff800000u)  // -inf, as bits
                         : LN2 * (state.row_maximum[t] + precise::log2(total));
      }
    }
  }
}
