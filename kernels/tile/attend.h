// kernels/tile/attend.h: one block of columns joins the running softmax of a
// tile of rows (FlashAttention-2, algorithm 1).
#pragma once

typedef Contract<HEAD_DIM, SLICE_DIM, 0> Keys;
typedef Spread<HEAD_DIM_V, SLICE_DIM_V, 0> Values;

struct ForwardState {
  Operand q[TILE_ROWS * (SLICE_DIM / 8)];
  Accumulator out[TILE_ROWS * (SLICE_DIM_V / 8)];
  float row_maximum[TILE_ROWS];  // over the row's four lanes
  float row_total[TILE_ROWS];    // this lane's share of the row's sum
#if SUMS_IN_PARTS
  // Of the parts that are in memory: the maximum that they are measured by.
  float stored_maximum[TILE_ROWS];
  float stored_total[TILE_ROWS];
#endif
};

// Reads one row of q and clears what it gathers.
METAL_FUNC void begin_row(thread ForwardState& state,
                          int t,
                          device const ELEM* q_row,
                          thread const Place& place) {
  Keys::load_rows(q_row, place.base, place.at, state.q + t * (SLICE_DIM / 8));
#pragma clang loop unroll(full)
  for (int f = 0; f < SLICE_DIM_V / 8; ++f) {
    state.out[t * (SLICE_DIM_V / 8) + f] = zero_accumulator();
  }
  state.row_maximum[t] = LOWEST;
  state.row_total[t] = 0.0f;
#if SUMS_IN_PARTS
  state.stored_maximum[t] = LOWEST;
  state.stored_total[t] = 0.0f;
#endif
}

// s = q k^T of one block of columns, before scaling.
METAL_FUNC void multiply_keys(thread ForwardState& state,
                              device const ELEM* k,
                              constant AttentionParams& p,
                              thread const Domain& d,
                              thread const Place& place,
                              int column0,
                              thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    int column = column0 + 8 * c + 2 * place.at.pair;
    Operand keys[SLICE_DIM / 8];
    Keys::load_columns(row_of(k, p.k.row, column, d.len_kv),
                       row_of(k, p.k.row, column + 1, d.len_kv), place.base,
                       place.at, keys);
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t)
      s[t * TILE_COLS + c] = zero_accumulator();
#pragma clang loop unroll(full)
    for (int f = 0; f < SLICE_DIM / 8; ++f) {
#pragma clang loop unroll(full)
      for (int t = 0; t < TILE_ROWS; ++t) {
        multiply_add(s[t * TILE_COLS + c], state.q[t * (SLICE_DIM / 8) + f],
                     keys[f]);
      }
    }
  }
}

// Turns scores into exp(score - maximum) and keeps the running row statistics.
template <int IS_EDGE>
METAL_FUNC void update_softmax(thread ForwardState& state,
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
      Values::scale(state.out + t * (SLICE_DIM_V / 8), correction);
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
        if (IS_DROPPED(draws, p, d, row, column0 + 8 * c, e, at)) x = 0.0f;
#endif
        s[t * TILE_COLS + c].thread_elements()[e] = x;
      }
    }
  }
}

// out += p v
METAL_FUNC void add_values(thread ForwardState& state,
                           device const ELEM* v,
                           constant AttentionParams& p,
                           thread const Domain& d,
                           thread const Place& place,
                           int column0,
                           thread Accumulator* s) {
#pragma clang loop unroll(full)
  for (int c = 0; c < TILE_COLS; ++c) {
    Operand weights[TILE_ROWS];
#pragma clang loop unroll(full)
    for (int t = 0; t < TILE_ROWS; ++t) {
      set_pair(weights[t], OPERAND(s[t * TILE_COLS + c].thread_elements()[0]),
               OPERAND(s[t * TILE_COLS + c].thread_elements()[1]));
    }
    int column = column0 + 8 * c + place.at.row;
    Values::multiply_rows(row_of(v, p.v.row, column, d.len_kv), place.base_v,
                          place.at, weights, state.out);
  }
}

METAL_FUNC void attend(thread ForwardState& state,
                       device const ELEM* k,
                       device const ELEM* v,
                       constant AttentionParams& p,
                       thread const Domain& d,
                       thread const Place& place,
                       thread const VisibleScores& in_view,
                       int row0,
                       int column0,
                       thread Exchange& exchange) {
  Accumulator s[TILE_ROWS * TILE_COLS];
  multiply_keys(state, k, p, d, place, column0, s);
  sum_slices(s, exchange, place);
  if (in_view.is_edge) {
    update_softmax<1>(state, p, d, in_view.kept, row0, column0, place.at, s);
  } else {
    update_softmax<0>(state, p, d, in_view.kept, row0, column0, place.at, s);
  }
  add_values(state, v, p, d, place, column0, s);
}
