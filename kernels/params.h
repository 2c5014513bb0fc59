// kernels/params.h: what host and kernels agree on: buffer slots, strides and
// the parameter struct.  Included by the kernels (MSL) and by csrc/attention.
#pragma once

#ifdef __METAL_VERSION__
typedef long orchard_i64;
typedef int orchard_i32;
typedef uint orchard_u32;
#else
#include <cstdint>
typedef int64_t orchard_i64;
typedef int32_t orchard_i32;
typedef uint32_t orchard_u32;
#endif

// Buffer slots, the same in every kernel; a kernel binds the ones it names.
#define SLOT_Q 0
#define SLOT_K 1
#define SLOT_V 2
#define SLOT_OUT 3
#define SLOT_LSE 4  // float, natural log; rows as AttentionParams::rows says
#define SLOT_GRAD_OUT 5
#define SLOT_STATS 6  // float2 a row: maximum, 1 / total
#define SLOT_DELTA 7  // float a row: sum of grad_out * out, less grad_lse
#define SLOT_DQ 8
#define SLOT_DK 9
#define SLOT_DV 10
#define SLOT_PARAMS 11
#define SLOT_MASK 12      // MASK_ELEM, any strides
#define SLOT_SLOPES 13    // float [heads_q] or [batch, heads_q]
#define SLOT_SINKS 14     // float [heads_q]
#define SLOT_STARTS_Q 15  // int [sequences + 1]: first row of each sequence
#define SLOT_STARTS_KV 16
#define SLOT_DBIAS 17  // MASK_ELEM, contiguous
// Of the cache of a decoding step, int32:
#define SLOT_LENGTHS 18     // [batch]: keys in the cache
#define SLOT_TABLE 19       // [batch, pages]: which page holds them
#define SLOT_LEFT_PADS 20   // [batch]: keys before the first that counts
#define SLOT_CACHE_ROWS 21  // [batch]: which batch entry of the cache
#define SLOT_SPLIT_OUT 22   // float [batch, heads_kv, splits, rows, head_dim_v]
#define SLOT_SPLIT_STATS 23  // float2 [batch, heads_kv, splits, rows]
// Of a backward that keeps the gradients of the scores (tile/spill.h):
#define SLOT_SPILL 24     // ELEM, fragments of SpillChunk
#define SLOT_CHUNK 25     // SpillChunk
#define SLOT_DQ_SUMS 26   // float, dq of the chunks of columns so far
#define SLOT_GRAD_LSE 27  // float, as SLOT_LSE
#define SLOT_UNITS 28     // float a fragment of halves in SLOT_SPILL
#define SLOT_WALK_SUMS \
  29  // float, of a walk that launches share (tile/carry.h)

// What MASK, a define of every kernel, may be.
#define MASK_NONE 0
#define MASK_BOOL 1
#define MASK_BIAS 2

// Of a row's statistics: the maximum of one that sees nothing, whose weights
// are 0 in the backward.
#define EMPTY_MAXIMUM 1e30f
#define LOG2E 1.44269504088896340736f

// Strides of a [batch, head, row, dim] tensor in elements; dim's stride is 1.
struct Strides {
  orchard_i64 batch;
  orchard_i64 head;
  orchard_i64 row;
};

struct AttentionParams {
  Strides q;
  Strides k;
  Strides v;
  Strides out;
  Strides grad_out;
  Strides dq;
  Strides dk;
  Strides dv;
  Strides mask;             // 0 where the mask is broadcast
  orchard_i64 mask_column;  // ... and along columns
  Strides rows;             // of lse, stats and delta; row is 1
  orchard_i32 batch;        // or sequences, when packed
  orchard_i32 heads_q;
  orchard_i32 group;  // heads_q / heads_kv
  orchard_i32 len_q;  // or the longest sequence's
  orchard_i32 len_kv;
  // Row r sees columns r + offset - window_left .. r + offset + window_right,
  // offset being len_kv - len_q or 0; the host clips both so that no sum
  // leaves 32 bits.
  orchard_i32 is_bottom_right;
  orchard_i32 window_left;
  orchard_i32 window_right;
  orchard_i32 slopes_batch;  // stride of the slopes' batch, 0 if shared
  orchard_i32 mask_batches;  // sizes of the mask: 1 or full
  orchard_i32 mask_heads;
  orchard_i32 mask_rows;
  orchard_i32 mask_columns;
  float scale;        // of q.k, as the user gave it
  float score_scale;  // scale in the unit of scores (tile/score.h)
  float softcap_in;   // scale / softcap
  float softcap_out;  // softcap in the unit of scores
  orchard_u32 seed_low;
  orchard_u32 seed_high;
  orchard_u32 drop_below;     // a weight whose 16-bit draw is below is dropped
  float keep_scale;           // 1 / (1 - drop_below / 65536)
  orchard_i32 splits;         // decode: parts that the keys are cut into
  orchard_i32 page_size;      // ... keys a page, if there are pages
  orchard_i32 table_row;      // ... stride of the table's batch
  orchard_i32 cache_entries;  // ... or pages, of k and v
  // Of the grid and of each threadgroup's walk, the part that this launch does
  // (attention/cut.h).
  orchard_i32 origin_x;  // of the first threadgroup
  orchard_i32 origin_y;
  orchard_i32 origin_z;
  orchard_i32 walk_head;  // of the heads that a threadgroup adds up, the first
  orchard_i32 walk_head_end;
  orchard_i32 walk_row;  // of the rows of each
  orchard_i32 walk_row_end;
  orchard_i32 is_walk_over;  // after this launch
#if !defined(__METAL_VERSION__) || IS_PARTIAL
  // Of a part of a whole: where its rows and columns stand, and its heads.
  orchard_i32 q_offset;
  orchard_i32 k_offset;
  orchard_i32 part_rows;  // of all sequences, when packed
  orchard_i32 part_columns;
  orchard_i32 head_offset;
  orchard_i32 heads_total;
#endif
};

// A part of the scores whose gradients are kept at once: all rows of some key
// heads, and some or all of their columns.
struct SpillChunk {
  orchard_i32 first_pair;  // batch * heads_kv + head_kv of the first key head
  orchard_i32 column0;     // a multiple of what a threadgroup takes
  orchard_i32 column_end;  // at most the longest len_kv
  orchard_i32 row_fragments;  // of each query head: 8 rows each
  orchard_i32 column_fragments;
  orchard_i32 is_last;  // chunk of columns of its heads
};

#ifndef __METAL_VERSION__
static_assert(sizeof(SpillChunk) == 24, "SpillChunk is shared with MSL");
static_assert(sizeof(Strides) == 24, "Strides is shared with MSL");
static_assert(sizeof(AttentionParams) == 408, "AttentionParams is shared");
#endif
