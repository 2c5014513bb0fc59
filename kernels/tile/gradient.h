// kernels/tile/gradient.h: from scores and output gradients to probabilities
// and score gradients; the same arithmetic for dQ and for dK, dV, so that both
// see the same bits (FlashAttention-2, algorithm 2).
#pragma once

// lse in base 2 and delta = sum(grad_out * out) of a row; a row that is not
// there gets weights of zero.
inline float2 row_stats(device const float2* stats, int row, int len_q) {
  float2 found(EMPTY_LSE, 0.0f);
  if (row < len_q) found = stats[row];
  return found;
}

// s: q k^T to probabilities.  dp: grad_out v^T to the gradient of the scaled
// score.  Both are zero where a score does not exist.
template <int IS_EDGE>
inline void differentiate(constant AttentionParams& p,
                          int row0,
                          int column0,
                          Lane at,
                          thread const float2* stats,
                          thread Accumulator* s,
                          thread Accumulator* dp) {
#pragma clang loop unroll(full)
  for (int t = 0; t < TILE_ROWS; ++t) {
#pragma clang loop unroll(full)
    for (int c = 0; c < TILE_COLS; ++c) {
#pragma clang loop unroll(full)
      for (int e = 0; e < 2; ++e) {
        int f = t * TILE_COLS + c;
        float weight =
            fast::exp2(s[f].thread_elements()[e] * p.scale_log2e - stats[t].x);
        float gradient = weight * (dp[f].thread_elements()[e] - stats[t].y);
        if (IS_EDGE) {
          bool is_kept = is_visible(p, row0 + 8 * t + at.row,
                                    column0 + 8 * c + 2 * at.pair + e);
          weight = is_kept ? weight : 0.0f;
          gradient = is_kept ? gradient : 0.0f;
        }
        s[f].thread_elements()[e] = weight;
        dp[f].thread_elements()[e] = gradient;
      }
    }
  }
}

// An accumulator rounded to the element type, to be an operand.
inline void round_to_operand(thread Operand& to, thread Accumulator& from) {
  set_pair(to, ELEM(from.thread_elements()[0]),
           ELEM(from.thread_elements()[1]));
}
