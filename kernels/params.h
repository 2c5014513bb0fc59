// kernels/params.h: what host and kernels agree on: buffer slots, strides and
// the parameter struct.  Included by the kernels (MSL) and by csrc/attention.
#pragma once

#ifdef __METAL_VERSION__
typedef long orchard_i64;
typedef int orchard_i32;
#else
#include <cstdint>
typedef int64_t orchard_i64;
typedef int32_t orchard_i32;
#endif

// Buffer slots, the same in every kernel; a kernel binds the ones it names.
#define SLOT_Q 0
#define SLOT_K 1
#define SLOT_V 2
#define SLOT_OUT 3
#define SLOT_LSE 4  // float [batch, heads_q, len_q], natural log
#define SLOT_GRAD_OUT 5
#define SLOT_STATS 6  // float2 [batch, heads_q, len_q]: lse*log2e, delta
#define SLOT_DQ 7
#define SLOT_DK 8
#define SLOT_DV 9
#define SLOT_PARAMS 10

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
  orchard_i32 heads_q;
  orchard_i32 heads_kv;
  orchard_i32 group;  // heads_q / heads_kv
  orchard_i32 len_q;
  orchard_i32 len_kv;
  // Row r sees columns r + offset - window_left .. r + offset + window_right;
  // the host clips both so that no sum leaves 32 bits.
  orchard_i32 offset;
  orchard_i32 window_left;
  orchard_i32 window_right;
  float scale;        // of q.k, as the user gave it
  float scale_log2e;  // scale * log2(e): scores live in base 2
};

#ifndef __METAL_VERSION__
static_assert(sizeof(Strides) == 24, "Strides is shared with MSL");
static_assert(sizeof(AttentionParams) == 232, "AttentionParams is shared");
#endif
