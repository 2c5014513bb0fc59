// kernels/tile/score.h: from q.k to a score, in the order scale, softcap,
// ALiBi, bias, and from a score to a weight.
#pragma once

// exp of a score less the row's maximum, which is not above 0.
METAL_FUNC float weight_of(float below) {
#if MASK == MASK_BIAS
  below *= LOG2E;
#endif
  return fast::exp2(below);
}

// x is q.k.  `slope` becomes the derivative by scale * q.k, less the scale.
METAL_FUNC float score_of(constant AttentionParams& p,
                          thread const Domain& d,
                          float x,
                          int row,
                          int column,
                          thread float& slope) {
#if HAS_SOFTCAP
  float t = precise::tanh(x * p.softcap_in);
  slope = (1.0f - t) * (1.0f + t);
  x = t * p.softcap_out;
#else
  slope = 1.0f;
  x *= p.score_scale;
#endif
#if HAS_SLOPES
  x -= SLOPE(d, row) * float(abs(POSITION(d, row) + d.offset - column));
#endif
#if MASK == MASK_BIAS
  if (row < d.len_q && column < d.len_kv) {
    x += float(mask_at(p, d, row, column));
  }
#endif
  return x;
}
