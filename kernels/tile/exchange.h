// kernels/tile/exchange.h: sums partial scores over the SPLIT simdgroups that
// share a tile, each of which contracted its own slice of head_dim.
#pragma once

// Simdgroup s works on tile s / SPLIT and slice s % SPLIT.
#if SPLIT > 1
// A lane's two elements of a fragment travel as one: 32 lanes then touch 256
// bytes in a row, where single floats would meet in every second bank only.
#define EXCHANGE_PAIRS (SIMDGROUPS * SCORE_FRAGMENTS * 32)
// Blocks take turns between two copies, if there is room for two: 20 KiB leave
// three threadgroups a core.
#if 2 * 8 * EXCHANGE_PAIRS <= 20480
#define EXCHANGE_COPIES 2
#else
#define EXCHANGE_COPIES 1
#endif
// The one threadgroup array of a kernel, declared first in its body.
#define DECLARE_EXCHANGE                                         \
  threadgroup float2 exchange[EXCHANGE_COPIES * EXCHANGE_PAIRS]; \
  uint turn = 0;
#define SUM_SLICES(fragments) \
  sum_slices(fragments, exchange, turn, simdgroup, lane)
// How a function takes that array, and how it is passed.
#define EXCHANGE_PARAMETER threadgroup float2 *exchange, thread uint &turn,
#define EXCHANGE_PASSED exchange, turn,

// All simdgroups of the threadgroup must call this together.  The order of
// summation is the slices' order for each of them, so all get the same bits.
METAL_FUNC void sum_slices(thread Accumulator* fragments,
                           threadgroup float2* exchange,
                           thread uint& turn,
                           uint simdgroup,
                           uint lane) {
  exchange += turn * EXCHANGE_PAIRS;
  threadgroup float2* mine = exchange + simdgroup * SCORE_FRAGMENTS * 32 + lane;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    mine[f * 32] = float2(fragments[f].thread_elements()[0],
                          fragments[f].thread_elements()[1]);
  }
  // Every slice's partial sums must be there before any is read.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup const float2* tile =
      exchange + (simdgroup / SPLIT) * SPLIT * SCORE_FRAGMENTS * 32 + lane;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    float first = 0.0f;
    float second = 0.0f;
#pragma clang loop unroll(full)
    for (int s = 0; s < SPLIT; ++s) {
      const float2 pair = tile[(s * SCORE_FRAGMENTS + f) * 32];
      first += pair.x;
      second += pair.y;
    }
    fragments[f].thread_elements()[0] = first;
    fragments[f].thread_elements()[1] = second;
  }
  // ... and all must be read before they are overwritten: by the block after
  // the next, when all have passed the next one's barrier, or by the next.
  if (EXCHANGE_COPIES == 2) {
    turn = 1 - turn;
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
#else
#define DECLARE_EXCHANGE
#define SUM_SLICES(fragments)
#define EXCHANGE_PARAMETER
#define EXCHANGE_PASSED
#endif
