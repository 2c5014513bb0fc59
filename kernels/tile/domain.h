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
#if IS_PARTIAL
  int at_q;  // where row 0 stands in the whole sequence
  int at_kv;
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
#else
#define STARTS_ARGUMENTS
#endif
#define DOMAIN_ARGUMENTS MASK_ARGUMENT SLOPES_ARGUMENT STARTS_ARGUMENTS

// Those arguments together: empty where there are none.
struct DomainTensors {
#if MASK
  device const MASK_ELEM* mask;
#endif
#if HAS_SLOPES
  device const float* slopes;
#endif
#if IS_PACKED
  device const int* starts_q;
  device const int* starts_kv;
#endif
};

#if MASK
#define GATHER_MASK(tensors) tensors.mask = mask;
#else
#define GATHER_MASK(tensors)
#endif
#if HAS_SLOPES
#define GATHER_SLOPES(tensors) tensors.slopes = slopes;
#else
#define GATHER_SLOPES(tensors)
#endif
#if IS_PACKED
#define GATHER_STARTS(tensors) \
  tensors.starts_q = starts_q; \
  tensors.starts_kv = starts_kv;
#else
#define GATHER_STARTS(tensors)
#endif
// Only the kernel itself can name its arguments.
#define GATHER_DOMAIN(tensors) \
  DomainTensors tensors;       \
  GATHER_MASK(tensors) GATHER_SLOPES(tensors) GATHER_STARTS(tensors)

#if IS_PARTIAL
// Of a sequence, what is in a chunk of the packed whole.
struct Part {
  int first;  // row of the chunk
  int length;
  int at;  // where that row stands in the sequence
};

METAL_FUNC Part part_of(device const int* starts,
                        int sequence,
                        int offset,
                        int rows) {
  Part part;
  part.first = min(max(starts[sequence] - offset, 0), rows);
  int end = min(max(starts[sequence + 1] - offset, 0), rows);
  part.length = end - part.first;
  part.at = max(offset - starts[sequence], 0);
  return part;
}
#endif

// Lengths and beginnings of a batch entry or sequence, the same for all heads.
METAL_FUNC Domain domain_of(constant AttentionParams& p,
                            thread const DomainTensors& tensors,
                            int batch) {
  Domain d;
#if IS_PACKED && IS_PARTIAL
  Part q = part_of(tensors.starts_q, batch, p.q_offset, p.part_rows);
  Part kv = part_of(tensors.starts_kv, batch, p.k_offset, p.part_columns);
  d.first_q = q.first;
  d.first_kv = kv.first;
  d.len_q = q.length;
  d.len_kv = kv.length;
  d.at_q = q.at;
  d.at_kv = kv.at;
#elif IS_PACKED
  d.first_q = tensors.starts_q[batch];
  d.first_kv = tensors.starts_kv[batch];
  d.len_q = tensors.starts_q[batch + 1] - d.first_q;
  d.len_kv = tensors.starts_kv[batch + 1] - d.first_kv;
#else
  d.first_q = 0;
  d.first_kv = 0;
  d.len_q = p.len_q;
  d.len_kv = p.len_kv;
#endif
#if IS_PARTIAL && !IS_PACKED
  d.at_q = p.q_offset;
  d.at_kv = p.k_offset;
#endif
#if IS_PARTIAL
  d.offset = d.at_q - d.at_kv;
#else
  d.offset = p.is_bottom_right ? d.len_kv - d.len_q : 0;
#endif
  return d;
}

// What a query head adds.
METAL_FUNC void enter_head(thread Domain& d,
                           constant AttentionParams& p,
                           thread const DomainTensors& tensors,
                           int batch,
                           int head) {
#if MASK
  d.mask = tensors.mask + batch * p.mask.batch + head * p.mask.head;
#endif
#if HAS_SLOPES && !IS_DECODE
  d.slope = tensors.slopes[batch * p.slopes_batch + head] * SCORE_UNIT;
#endif
#if HAS_DROPOUT && IS_PARTIAL
  d.stream = uint(batch * p.heads_total + p.head_offset + head);
#elif HAS_DROPOUT
  d.stream = uint(batch * p.heads_q + head);
#endif
}
