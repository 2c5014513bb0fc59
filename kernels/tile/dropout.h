// kernels/tile/dropout.h: which weights are dropped: a function of seed, head,
// row and column alone (Philox4x32-10; Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3", SC11), so that every kernel sees the same.
#pragma once

#if HAS_DROPOUT
METAL_FUNC uint4 philox(uint4 counter, uint key0, uint key1) {
#pragma clang loop unroll(full)
  for (int round = 0; round < 10; ++round) {
    ulong a = ulong(0xD2511F53u) * ulong(counter.x);
    ulong b = ulong(0xCD9E8D57u) * ulong(counter.z);
    counter = uint4(uint(b >> 32) ^ counter.y ^ key0, uint(b),
                    uint(a >> 32) ^ counter.w ^ key1, uint(a));
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// The draws of one row: a call gives eight of 16 bits, which are this lane's
// elements in 32 columns.
struct Draws {
  uint4 words;
};

METAL_FUNC void draw(thread Draws& draws,
                     constant AttentionParams& p,
                     thread const Domain& d,
                     int row,
                     int column0,
                     Lane at) {
#if IS_PARTIAL
  row += d.at_q;
  column0 += d.at_kv;
#endif
  uint strip = 4u * uint(column0 >> 5) + uint(at.pair);
  draws.words =
      philox(uint4(strip, uint(row), d.stream, 0u), p.seed_low, p.seed_high);
}

// `column0` is the fragment's first column.
METAL_FUNC bool is_dropped(thread const Draws& draws,
                           constant AttentionParams& p,
                           int column0,
                           int e) {
  int which = (column0 >> 3) & 3;
  uint low = which & 1 ? draws.words.y : draws.words.x;
  uint high = which & 1 ? draws.words.w : draws.words.z;
  uint word = which & 2 ? high : low;
  return ((word >> (16 * e)) & 0xffffu) < p.drop_below;
}

#if IS_PARTIAL
// The whole's strips of 32 columns are this part's only where it begins with
// one; elsewhere each element draws its own.
METAL_FUNC bool is_dropped_of_whole(thread const Draws& draws,
                                    constant AttentionParams& p,
                                    thread const Domain& d,
                                    int row,
                                    int column0,
                                    int e,
                                    Lane at) {
  if ((d.at_kv & 31) == 0) return is_dropped(draws, p, column0, e);
  int column = column0 + 2 * at.pair + e;
  int in_whole = column + d.at_kv;
  at.pair = (in_whole >> 1) & 3;
  Draws own;
  draw(own, p, d, row, column, at);
  return is_dropped(own, p, in_whole, in_whole & 1);
}
#define IS_DROPPED(draws, p, d, row, column0, e, at) \
  is_dropped_of_whole(draws, p, d, row, column0, e, at)
#else
#define IS_DROPPED(draws, p, d, row, column0, e, at) \
  is_dropped(draws, p, column0, e)
#endif
#endif
