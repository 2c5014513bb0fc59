// kernels/layout_probe.metal: whether each lane of a simdgroup holds the two
// elements of an 8x8 matrix that tile/lane.h says.  Grid: one threadgroup of 32
// threads.
//
//   matches  uint[32], 1 for a lane that does, else 0
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>

using namespace metal;

#include "tile/lane.h"

kernel void layout_probe(device uint* matches [[buffer(0)]],
                         uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float numbers[64];
  numbers[2 * lane] = float(2 * lane);
  numbers[2 * lane + 1] = float(2 * lane + 1);
  // The load below reads what other lanes wrote.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<float, 8, 8> matrix;
  simdgroup_load(matrix, numbers, 8);
  const Lane at = lane_position(lane);
  const float first = float(8 * at.row + 2 * at.pair);
  matches[lane] = uint(matrix.thread_elements()[0] == first &&
                       matrix.thread_elements()[1] == first + 1.0f);
}
