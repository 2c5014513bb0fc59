// kernels/tile/domain.h: what one query head of one batch entry or sequence
// looks like: its lengths, where its rows begin, and what shapes its scores.
#pragma once

struct Domain {
  int len_q;  // rows of a tile's head
  int len_kv;
  int offset;   // of the diagonal: row r faces column r + offset
  int first_q;  // row of the packed tensors at which the sequence begins
  int first_kv;
#if HAS_SLOPES && IS_DECODE
  device const float* slopes;  // of the first head of the group
#elif HAS_SLOPES
  float slope;  // in the unit of scores
#endif
#if IS_DECODE
  int group;
#endif
#if MASK
  device const MASK_ELEM* mask;
#endif
#if HAS_DROPOUT
  uint stream;  // batch * heads_q + head
#endif
};

// A decoding step packs all query heads of a key head into one tile: row r is
// position r / group of head r % group.
#if IS_DECODE
#define POSITION(d, row) ((row) / (d).group)
#define SLOPE(d, row) ((d).slopes[(row) % (d).group] * SCORE_UNIT)
#else
#define POSITION(d, row) (row)
#define SLOPE(d, row) (d).slope
#endif

// Kernel arguments that only some specialisations have, and how to pass them.
#if MASK
#define MASK_ARGUMENT device const MASK_ELEM *mask [[buffer(SLOT_MASK)]],
#else
#define MASK_ARGUMENT
#endif
#if HAS_SLOPES
#define SLOPES_ARGUMENT device const float *slopes [[buffer(SLOT_SLOPES)]],
#else
#define SLOPES_ARGUMENT
#endif
#if IS_PACKED
#define STARTS_ARGUMENTS                                \
  device const int *starts_q [[buffer(SLOT_STARTS_Q)]], \
      device const int *starts_kv [[buffer(SLOT_STARTS_KV)]],
#define SET_EXTENT(d) set_extent(d, p, batch, starts_q, starts_kv)
#else
#define STARTS_ARGUMENTS
#define SET_EXTENT(d) set_extent(d, p)
#endif
#define DOMAIN_ARGUMENTS MASK_ARGUMENT SLOPES_ARGUMENT STARTS_ARGUMENTS

// Lengths and beginnings, the same for all heads.
#if IS_PACKED
METAL_FUNC void set_extent(thread Domain& d,
                           constant AttentionParams& p,
                           int batch,
                           device const int* starts_q,
                           device const int* starts_kv) {
  d.first_q = starts_q[batch];
  d.first_kv = starts_kv[batch];
  d.len_q = starts_q[batch + 1] - d.first_q;
  d.len_kv = starts_kv[batch + 1] - d.first_kv;
  d.offset = p.is_bottom_right ? d.len_kv - d.len_q : 0;
}
#else
METAL_FUNC void set_extent(thread Domain& d, constant AttentionParams& p) {
  d.first_q = 0;
  d.first_kv = 0;
  d.len_q = p.len_q;
  d.len_kv = p.len_kv;
  d.offset = p.is_bottom_right ? d.len_kv - d.len_q : 0;
}
#endif

// What a query head adds: a statement, because its arguments vary.
#if MASK
#define SET_HEAD_MASK(d, head) \
  d.mask = mask + batch * p.mask.batch + (head) * p.mask.head;
#else
#define SET_HEAD_MASK(d, head)
#endif
#if HAS_SLOPES
#define SET_HEAD_SLOPE(d, head) \
  d.slope = slopes[batch * p.slopes_batch + (head)] * SCORE_UNIT;
#else
#define SET_HEAD_SLOPE(d, head)
#endif
#if HAS_DROPOUT
#define SET_HEAD_STREAM(d, head) d.stream = uint(batch * p.heads_q + (head));
#else
#define SET_HEAD_STREAM(d, head)
#endif
#define SET_HEAD(d, head) \
  SET_HEAD_MASK(d, head) SET_HEAD_SLOPE(d, head) SET_HEAD_STREAM(d, head)
