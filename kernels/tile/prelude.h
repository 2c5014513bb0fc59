// kernels/tile/prelude.h: what every attention kernel includes.
//
// The host defines, as text before this file:
//   ELEM, ELEM_BYTES      element type of q, k, v: float, half or bfloat
//   OPERAND, OPERAND_BYTES   of their fragments in registers: ELEM, or float
//   HEAD_DIM, HEAD_DIM_V  of q and k; of v
//   VEC                   elements per load or store
//   TILE_ROWS, TILE_COLS  8x8 fragments of scores per simdgroup
//   SIMDGROUPS, SLICES    per threadgroup; of those, slices of head_dim
//   WIDE_INDEX            whether a head of a tensor reaches beyond 31 bits
//   HAS_WINDOW            whether rows see a part of the columns only
//   MASK                  MASK_NONE, MASK_BOOL or MASK_BIAS
//   MASK_ELEM             element type of the mask: uchar, float, half, bfloat
//   HAS_SLOPES, HAS_SOFTCAP, HAS_SINKS, HAS_DROPOUT   whether there are any
//   HAS_GRAD_LSE          whether the lse has a gradient too
//   IS_PACKED             sequences lie one after the other in one batch entry
//   IS_PARTIAL            rows and columns are some of a whole's, results float
//   IS_CARRIED            a walk is cut: sums go on from a launch to the next
//   IS_DECODE             keys come from a cache; of that,
//   IS_PAGED, HAS_LEFT_PADS, HAS_CACHE_ROWS   pages, and the tensors given
#pragma once

#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>

using namespace metal;

#include "params.h"

// Whether the element type is half, whose range is the narrow one.
#define IS_HALF_half 1
#define IS_HALF_float 0
#define IS_HALF_bfloat 0
#define IS_HALF_OF(elem) IS_HALF_##elem
#define IS_HALF_EXPANDED(elem) IS_HALF_OF(elem)
#define IS_HALF IS_HALF_EXPANDED(ELEM)

#define SLICE_DIM_OF(dim) (((dim) + 8 * SLICES - 1) / (8 * SLICES) * 8)
#define SLICE_DIM SLICE_DIM_OF(HEAD_DIM)
#define SLICE_DIM_V SLICE_DIM_OF(HEAD_DIM_V)

#define TILES (SIMDGROUPS / SLICES)
#define ROWS (8 * TILE_ROWS)  // of a simdgroup's tile of scores
#define COLS (8 * TILE_COLS)

// What a kernel declares as its most threads, so that the compiler may give
// each as many registers as they leave.  Never below 64: with a bound of 32,
// Apple's compiler is reported to get 8x8 matrices and barriers silently wrong.
#if SIMDGROUPS > 1
#define THREADS_AT_MOST (32 * SIMDGROUPS)
#else
#define THREADS_AT_MOST 64
#endif

// The least finite number: where a row's maximum starts.  Infinity is never
// used, because fast math may assume that there is none.
#define LOWEST -3.402823466e38f
#define LN2 0.69314718055994530942f

// By its bits, because fast math may assume that there is no infinity.
METAL_FUNC bool is_minus_infinity(float x) {
  return as_type<uint>(x) == 0xff800000u;
}

// What results are in memory, and of them in registers.
#if IS_PARTIAL
#define RESULT float
#define RESULT_OPERAND float
#else
#define RESULT ELEM
#define RESULT_OPERAND OPERAND
#endif

// Counts elements from where a head begins in its tensor.  The beginning itself
// and what is stored once for each tile are counted in 64 bits always.
#if WIDE_INDEX
typedef long Index;
#else
typedef int Index;
#endif

// Scores are kept in base 2, so that exp2 needs no factor; with a bias in base
// e, where the least finite bias times log2(e) would be -inf.
#if MASK == MASK_BIAS
#define SCORE_UNIT 1.0f
#define SCORE_TO_NATURAL 1.0f
#else
#define SCORE_UNIT LOG2E
#define SCORE_TO_NATURAL LN2
#endif

#include "tile/lane.h"
#include "tile/place.h"
#include "tile/memory.h"
#include "tile/parts.h"
#include "tile/fragment.h"
#include "tile/domain.h"
#include "tile/window.h"
#include "tile/score.h"
#include "tile/dropout.h"
