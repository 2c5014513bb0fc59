// kernels/tile/exchange.h: sums partial scores over the SPLIT simdgroups that
// share a tile, each of which contracted its own slice of head_dim.
#pragma once

// Simdgroup s works on tile s / SPLIT and slice s % SPLIT.
#if SPLIT > 1
#define EXCHANGE_FLOATS (SIMDGROUPS * SCORE_FRAGMENTS * 64)
// The one threadgroup array of a kernel, declared first in its body.
#define DECLARE_EXCHANGE threadgroup float exchange[EXCHANGE_FLOATS];
#define SUM_SLICES(fragments) sum_slices(fragments, exchange, simdgroup, lane)
// How a function takes that array, and how it is passed.
#define EXCHANGE_PARAMETER threadgroup float *exchange,
#define EXCHANGE_PASSED exchange,

// All simdgroups of the threadgroup must call this together.  The order of
// summation is the slices' order for each of them, so all get the same bits.
inline void sum_slices(thread Accumulator* fragments,
                       threadgroup float* exchange,
                       uint simdgroup,
                       uint lane) {
  threadgroup float* mine =
      exchange + (simdgroup * SCORE_FRAGMENTS * 32 + lane) * 2;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    mine[f * 64] = fragments[f].thread_elements()[0];
    mine[f * 64 + 1] = fragments[f].thread_elements()[1];
  }
  // Every slice's partial sums must be there before any is read.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup const float* tile =
      exchange +
      ((simdgroup / SPLIT) * SPLIT * SCORE_FRAGMENTS * 32 + lane) * 2;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    float first = 0.0f;
    float second = 0.0f;
#pragma clang loop unroll(full)
    for (int s = 0; s < SPLIT; ++s) {
      first += tile[(s * SCORE_FRAGMENTS + f) * 64];
      second += tile[(s * SCORE_FRAGMENTS + f) * 64 + 1];
    }
    fragments[f].thread_elements()[0] = first;
    fragments[f].thread_elements()[1] = second;
  }
  // ... and all must be read before the next block overwrites them.
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
#else
#define DECLARE_EXCHANGE
#define SUM_SLICES(fragments)
#define EXCHANGE_PARAMETER
#define EXCHANGE_PASSED
#endif
