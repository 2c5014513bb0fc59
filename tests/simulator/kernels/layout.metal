// tests/simulator/kernels/layout.metal: which element of a matrix a lane holds.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

kernel void layout(device const float* m [[buffer(0)]],
                   device float2* held [[buffer(1)]],
                   uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_float8x8 tile;
  simdgroup_load(tile, m, 8);
  held[lane] = tile.thread_elements();
}
