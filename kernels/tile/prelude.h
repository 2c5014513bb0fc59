// kernels/tile/prelude.h: what every attention kernel includes.
//
// The host defines, as text before this file:
//   ELEM, ELEM_BYTES      element type of q, k, v: float, half or bfloat
//   HEAD_DIM, HEAD_DIM_V  of q and k; of v
//   VEC                   elements per load or store
//   TILE_ROWS, TILE_COLS  8x8 fragments of scores per simdgroup
//   SIMDGROUPS, SPLIT     per threadgroup; of those, slices of head_dim
//   HAS_WINDOW            whether rows see a part of the columns only
#pragma once

#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>

using namespace metal;

#include "params.h"

#define SLICE_OF(dim) (((dim) + 8 * SPLIT - 1) / (8 * SPLIT) * 8)
#define SLICE SLICE_OF(HEAD_DIM)
#define SLICE_V SLICE_OF(HEAD_DIM_V)

#define TILES (SIMDGROUPS / SPLIT)
#define ROWS (8 * TILE_ROWS)  // of a simdgroup's tile of scores
#define COLS (8 * TILE_COLS)

// Stand-ins for infinity that survive fast math: a masked score, and the
// floor of a row's maximum, above it so that exp2(masked - floor) is 0.
#define MASKED_SCORE -1e30f
#define FLOOR_SCORE -1e29f
// lse of a row that sees nothing, inside the backward: exp2(s - this) is 0.
#define EMPTY_LSE 1e30f
#define LOG2E 1.44269504088896340736f
#define LN2 0.69314718055994530942f

#include "tile/lane.h"
#include "tile/memory.h"
#include "tile/fragment.h"
#include "tile/window.h"
