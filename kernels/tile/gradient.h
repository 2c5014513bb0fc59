// kernels/tile/gradient.h: from scores and output gradients to weights and
// score gradients; the same arithmetic in every kernel of the backward, so that
// all see the same bits (FlashAttention-2, algorithm 2).
#pragma once

// What the backward needs of a row.
struct RowStat {
  float maximum;
  float inverse;  // 1 / total
  float delta;    // of backward_prepare.metal
};

// A row that is not there gets weights of zero.
METAL_FUNC RowStat row_stat_of(device const float2* stats,
                               device const float* delta,
                               int row,
                               int len_q) {
  RowStat found;
  found.maximum = EMPTY_MAXIMUM;
  found.inverse = 0.0f;
  found.delta = 0.0f;
  if (row < len_q) {
    float2 x = stats[row];
    found.maximum = x.x;
    found.inverse = x.y;
    found.delta = delta[row];
  }
  return found;
}

// s: q k^T to the weights that v got, but for keep_scale.  dp: grad_out v^T to
// the gradient of the score times `unit` (tile/unit.h): of scale * q k^T, or if
// OF_BIAS where the bias is added.  Both are zero where a score does not exist.
template <int IS_EDGE, int OF_BIAS>
METAL_FUNC void differentiate(constant AttentionParams& p,
                              thread const Domain& d,
                              uint kept,
                              int row0,
                              int column0,
                              Lane at,
                              float unit,
                              thread const RowStat* stats,
                              thread Accumulator* s,
                              thread Accumulator* dp) {
#if HAS_DROPOUT
  float factor = p.keep_scale * unit;
#else
  float factor = unit;
#endif
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
    int row = row0 + 8 * t + at.row;
    float delta = stats[t].delta * unit;
#if HAS_DROPOUT
    Draws draws;
#endif
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
      int column = column0 + 8 * c + 2 * at.pair;
#if HAS_DROPOUT
      if (c % 4 == 0) draw(draws, p, d, row, column0 + 8 * c, at);
#endif
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        int f = t * TILE_COLS + c;
        float slope;
        float score =
            score_of(p, d, s[f].thread_elements()[e], row, column + e, slope);
        float weight = weight_of(score - stats[t].maximum) * stats[t].inverse;
        float passed = dp[f].thread_elements()[e];
        float given = weight;
#if HAS_DROPOUT
        bool is_lost = IS_DROPPED(draws, p, d, row, column0 + 8 * c, e, at);
        passed = is_lost ? 0.0f : passed;
        given = is_lost ? 0.0f : given;
#endif
        float gradient = weight * fma(passed, factor, -delta);
        if (!OF_BIAS) gradient *= slope;
        if (IS_EDGE) {
          bool is_kept = is_kept_bit(kept, t, c, e);
          given = is_kept ? given : 0.0f;
          gradient = is_kept ? gradient : 0.0f;
        }
        s[f].thread_elements()[e] = given;
        dp[f].thread_elements()[e] = gradient;
      }
    }
  }
}

// An accumulator rounded to the element type, to be an operand.
METAL_FUNC void round_to_operand(thread Operand& to, thread Accumulator& from) {
  set_pair(to, OPERAND(from.thread_elements()[0]),
           OPERAND(from.thread_elements()[1]));
}
