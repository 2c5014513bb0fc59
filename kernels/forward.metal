// kernels/forward.metal: out = softmax(scores) v and its log-sum-exp, one pass
// over the keys with a running maximum (FlashAttention-2, algorithm 1;
// arXiv:2307.08691), a tile of rows per SPLIT simdgroups.  What a score is
// besides scale * q k^T: tile/score.h.
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
  float row_maximum[TILE_ROWS];  // over the row's four lanes
  float row_total[TILE_ROWS];    // this lane's share of the row's sum
};

// s = q k^T of one block of columns, before scaling.
inline void score(thread ForwardState& state,
                  device const ELEM* k,
                  constant AttentionParams& p,
                  thread const Domain& d,
                  int column0,
                  int base,
                  Lane at,
                  thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * at.pair;
    Operand keys[SLICE / 8];
    Keys::load_columns(k + column * p.k.row, p.k.row, d.len_kv - column, base,
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

// Turns scores into exp(score - maximum) and keeps the running row statistics.
template <int IS_EDGE>
inline void soften(thread ForwardState& state,
                   constant AttentionParams& p,
                   thread const Domain& d,
                   uint kept,
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
        float slope;
        float x = score_of(p, d, s[t * TILE_COLS + c].thread_elements()[e], row,
                           column + e, slope);
        s[t * TILE_COLS + c].thread_elements()[e] = x;
        if (!IS_EDGE || is_kept_bit(kept, t, c, e)) largest = max(largest, x);
      }
    }
    largest = row_max(largest);
    if (simd_any(largest != state.row_maximum[t])) {
      float correction = weight_of(state.row_maximum[t] - largest);
      state.row_total[t] *= correction;
      Values::scale(state.out + t * (SLICE_V / 8), correction);
      state.row_maximum[t] = largest;
    }
#if HAS_DROPOUT
    Draws draws;
#endif
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
#if HAS_DROPOUT
      if (c % 4 == 0) draw(draws, p, d, row, column0 + 8 * c, at);
#endif
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        float x =
            weight_of(s[t * TILE_COLS + c].thread_elements()[e] - largest);
        if (IS_EDGE) x = is_kept_bit(kept, t, c, e) ? x : 0.0f;
        state.row_total[t] += x;
#if HAS_DROPOUT
        if (is_dropped(draws, p, column0 + 8 * c, e)) x = 0.0f;
#endif
        s[t * TILE_COLS + c].thread_elements()[e] = x;
      }
    }
  }
}

// out += p v
inline void gather(thread ForwardState& state,
                   device const ELEM* v,
                   constant AttentionParams& p,
                   thread const Domain& d,
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
    Values::multiply_rows(v + column * p.v.row, column < d.len_kv, base, at,
                          weights, state.out);
  }
}

#if HAS_SINKS
#define SINKS_ARGUMENT device const float *sinks [[buffer(SLOT_SINKS)]],
// A sink is a column without a value: it joins the row's maximum and total.
inline void add_sink(thread ForwardState& state, int t, float sink) {
  float largest = max(state.row_maximum[t], sink);
  float correction = weight_of(state.row_maximum[t] - largest);
  state.row_total[t] =
      state.row_total[t] * correction + weight_of(sink - largest);
  Values::scale(state.out + t * (SLICE_V / 8), correction);
  state.row_maximum[t] = largest;
}
#else
#define SINKS_ARGUMENT
#endif

[[kernel, max_total_threads_per_threadgroup(32 * SIMDGROUPS)]] void forward(
    device const ELEM* q [[buffer(SLOT_Q)]],
    device const ELEM* k [[buffer(SLOT_K)]],
    device const ELEM* v [[buffer(SLOT_V)]],
    device ELEM* out [[buffer(SLOT_OUT)]],
    device float* lse [[buffer(SLOT_LSE)]],
    device float2* stats [[buffer(SLOT_STATS)]],
    DOMAIN_ARGUMENTS SINKS_ARGUMENT constant AttentionParams& p
    [[buffer(SLOT_PARAMS)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  DECLARE_EXCHANGE
  Lane at = lane_position(lane);
  int slice = int(simdgroup % SPLIT);
  int base = slice * SLICE;
  int base_v = slice * SLICE_V;
  int tile = int(simdgroup / SPLIT);
  int group_row0 = int(groups.x - 1 - group.x) * ROWS * TILES;
  int row0 = group_row0 + tile * ROWS;
  int head = int(group.y);
  int batch = int(group.z);
  Domain d;
  SET_EXTENT(d);
  SET_HEAD(d, head)
  q += batch * p.q.batch + head * p.q.head + d.first_q * p.q.row;
  k += batch * p.k.batch + (head / p.group) * p.k.head + d.first_kv * p.k.row;
  v += batch * p.v.batch + (head / p.group) * p.v.head + d.first_kv * p.v.row;

  ForwardState state;
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    Keys::load_rows(q + row * p.q.row, row < d.len_q, base, at,
                    state.q + t * (SLICE / 8));
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE_V / 8; ++f) {
      state.out[t * (SLICE_V / 8) + f] = zero_accumulator();
    }
    state.row_maximum[t] = LOWEST;
    state.row_total[t] = 0.0f;
  }

  // With barriers inside, all tiles of a threadgroup walk the same blocks.
  int first = SPLIT > 1 ? group_row0 : row0;
  int last = min(first + (SPLIT > 1 ? ROWS * TILES : ROWS), d.len_q) - 1;
  Range seen = visible_columns(p, d, first, last);
  for (int block = seen.begin / COLS; block * COLS < seen.end; ++block) {
    int column0 = block * COLS;
    Sight sight = look(p, d, row0, column0, ROWS, 0, tile, at);
    if (sight.is_empty) continue;
    Accumulator s[TILE_ROWS * TILE_COLS];
    score(state, k, p, d, column0, base, at, s);
    SUM_SLICES(s);
    if (sight.is_edge) {
      soften<1>(state, p, d, sight.kept, row0, column0, at, s);
    } else {
      soften<0>(state, p, d, sight.kept, row0, column0, at, s);
    }
    gather(state, v, p, d, column0, base_v, at, s);
  }

#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    state.row_total[t] = row_sum(state.row_total[t]);
#if HAS_SINKS
    add_sink(state, t, sinks[head] * SCORE_UNIT);
#endif
    float total = state.row_total[t];
    bool is_empty = total == 0.0f;  // false for NaN, which must come through
    float inverse = is_empty ? 0.0f : 1.0f / total;
    if (row < d.len_q) {
      device ELEM* to = out + batch * p.out.batch + head * p.out.head +
                        (d.first_q + row) * p.out.row;
#if HAS_DROPOUT
      Values::store_rows(to, base_v, at, inverse * p.keep_scale,
                         state.out + t * (SLICE_V / 8));
#else
      Values::store_rows(to, base_v, at, inverse,
                         state.out + t * (SLICE_V / 8));
#endif
      if (slice == 0 && at.pair == 0) {
        long index =
            batch * p.rows.batch + head * p.rows.head + d.first_q + row;
        float largest = state.row_maximum[t];
        lse[index] =
            is_empty ? as_type<float>(0xff800000u)  // -inf, as bits
                     : largest * SCORE_TO_NATURAL + LN2 * precise::log2(total);
        stats[index] = float2(is_empty ? EMPTY_MAXIMUM : largest, inverse);
      }
    }
  }
}
