// kernels/tile/exchange.h: sums partial scores over the SLICES simdgroups that
// share a tile, each of which contracted its own slice of head_dim.
#pragma once

// Simdgroup s works on tile s / SLICES and slice s % SLICES.
#if SLICES > 1
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
// Where they meet.
struct Exchange {
  threadgroup float2* pairs;
  uint turn;
};
// Declared first in a kernel's body: its one threadgroup array.
#define DECLARE_EXCHANGE(exchange)                                \
  threadgroup float2 exchanged[EXCHANGE_COPIES * EXCHANGE_PAIRS]; \
  Exchange exchange;                                              \
  exchange.pairs = exchanged;                                     \
  exchange.turn = 0;

// All simdgroups of the threadgroup must call this together.  The order of
// summation is the slices' order for each of them, so all get the same bits.
METAL_FUNC void sum_slices(thread Accumulator* fragments,
                           thread Exchange& exchange,
                           thread const Place& place) {
  threadgroup float2* pairs =
      exchange.pairs + exchange.turn * EXCHANGE_PAIRS + place.lane;
  threadgroup float2* mine = pairs + place.simdgroup * SCORE_FRAGMENTS * 32;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    mine[f * 32] = float2(fragments[f].thread_elements()[0],
                          fragments[f].thread_elements()[1]);
  }
  // Every slice's partial sums must be there before any is read.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup const float2* tile =
      pairs + (place.simdgroup / SLICES) * SLICES * SCORE_FRAGMENTS * 32;
#pragma clang loop unroll(full)
  for (int f = 0; f < SCORE_FRAGMENTS; ++f) {
    float first = 0.0f;
    float second = 0.0f;
#pragma clang loop unroll(full)
    for (int s = 0; s < SLICES; ++s) {
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
    exchange.turn = 1 - exchange.turn;
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
#else
struct Exchange {};
#define DECLARE_EXCHANGE(exchange) Exchange exchange;

METAL_FUNC void sum_slices(thread Accumulator* fragments,
                           thread Exchange& exchange,
                           thread const Place& place) {}
#endif
