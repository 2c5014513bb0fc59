// kernels/tile/place.h: where a simdgroup works.
#pragma once

struct Place {
  // Of the threadgroup in the whole grid, of which a launch may do a part.
  int grid_x;
  int grid_y;
  int grid_z;
  int tile;    // of the threadgroup's tiles, this simdgroup's
  int slice;   // of head_dim
  int base;    // its first element, in q and k
  int base_v;  // ... and in v
  Lane at;
  uint simdgroup;
  uint lane;
};

METAL_FUNC Place place_of(constant AttentionParams& p,
                          uint3 group,
                          uint simdgroup,
                          uint lane) {
  Place place;
  place.grid_x = p.origin_x + int(group.x);
  place.grid_y = p.origin_y + int(group.y);
  place.grid_z = p.origin_z + int(group.z);
  place.tile = int(simdgroup / SLICES);
  place.slice = int(simdgroup % SLICES);
  place.base = place.slice * SLICE_DIM;
  place.base_v = place.slice * SLICE_DIM_V;
  place.at = lane_position(lane);
  place.simdgroup = simdgroup;
  place.lane = lane;
  return place;
}

// Tiles of rows run backwards: longest first where a mask is causal.
METAL_FUNC int row_groups(constant AttentionParams& p) {
  return (p.len_q + ROWS * TILES - 1) / (ROWS * TILES);
}

// Where a row of a head begins.
METAL_FUNC device const ELEM* head_of(device const ELEM* tensor,
                                      constant Strides& strides,
                                      int batch,
                                      int head,
                                      int row) {
  return tensor + batch * strides.batch + head * strides.head +
         row * strides.row;
}

METAL_FUNC device RESULT* head_of(device RESULT* tensor,
                                  constant Strides& strides,
                                  int batch,
                                  int head,
                                  int row) {
  return tensor + batch * strides.batch + head * strides.head +
         row * strides.row;
}

// ... and in lse, stats and delta.
METAL_FUNC long row_of_all(constant AttentionParams& p,
                           int batch,
                           int head,
                           int row) {
  return batch * p.rows.batch + head * p.rows.head + row;
}
