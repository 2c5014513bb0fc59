// kernels/tile/carry.h: sums that go on from one launch to the next: memory
// holds the accumulators as they are, so that the bits are those of one launch.
#pragma once

#if IS_SUMMED || IS_CARRIED
// `sums`: this lane's first two elements.
template <int COUNT>
METAL_FUNC void load_sums(device const float* sums, thread Accumulator* to) {
#pragma clang loop unroll(full)
  for (int f = 0; f < COUNT; ++f) {
    float2 x = *(device const float2*)(sums + f * 64);
    to[f].thread_elements()[0] = x.x;
    to[f].thread_elements()[1] = x.y;
  }
}

template <int COUNT>
METAL_FUNC void store_sums(device float* sums, thread Accumulator* from) {
#pragma clang loop unroll(full)
  for (int f = 0; f < COUNT; ++f) {
    *(device float2*)(sums + f * 64) =
        float2(from[f].thread_elements()[0], from[f].thread_elements()[1]);
  }
}

#endif

#if IS_CARRIED
// Of a walk that launches share, one of `fragments` a simdgroup.
#define WALK_ARGUMENTS                                \
  device float *walk_sums [[buffer(SLOT_WALK_SUMS)]], \
      uint3 groups [[threadgroups_per_grid]],

METAL_FUNC device float* walk_sums_of(device float* sums,
                                      uint3 group,
                                      uint3 groups,
                                      thread const Place& place,
                                      int fragments) {
  long before = (long(group.z) * groups.y + group.y) * groups.x + group.x;
  return sums + (before * SIMDGROUPS + place.simdgroup) * fragments * 64 +
         2 * place.lane;
}

// Whether launches before this one have begun the walk.
METAL_FUNC bool is_walk_begun(constant AttentionParams& p) {
  return p.walk_head > 0 || p.walk_row > 0;
}

// Of the rows that a tile sees, those of this launch.
METAL_FUNC Range rows_of_walk(constant AttentionParams& p, Range seen) {
  seen.begin = max(seen.begin, p.walk_row);
  seen.end = min(seen.end, p.walk_row_end);
  return seen;
}
#else
#define WALK_ARGUMENTS
#endif
