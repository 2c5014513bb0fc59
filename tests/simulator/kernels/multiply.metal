// tests/simulator/kernels/multiply.metal: d = a b + c, with types by TA, TB,
// TC, TD, and the transposed product when TRANSPOSE is 1.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#ifndef TRANSPOSE
#define TRANSPOSE false
#endif

kernel void multiply(device const TA* a [[buffer(0)]],
                     device const TB* b [[buffer(1)]],
                     device const TC* c [[buffer(2)]],
                     device TD* d [[buffer(3)]]) {
  simdgroup_matrix<TA, 8, 8> left;
  simdgroup_matrix<TB, 8, 8> right;
  simdgroup_matrix<TC, 8, 8> start;
  simdgroup_matrix<TD, 8, 8> result;
  simdgroup_load(left, a, 8);
  simdgroup_load(right, b, 8, ulong2(0, 0), TRANSPOSE);
  simdgroup_load(start, c, 8);
  simdgroup_multiply_accumulate(result, left, right, start);
  simdgroup_store(result, d, 8);
}
