// tests/simulator/kernels/rounding.metal: each operation of T rounds to T.
#include <metal_stdlib>
using namespace metal;

kernel void rounding(device const float* x [[buffer(0)]],
                     device const float* y [[buffer(1)]],
                     device float* out [[buffer(2)]],
                     constant uint& n [[buffer(3)]],
                     uint i [[thread_position_in_grid]]) {
  T a = T(x[i]);
  T b = T(y[i]);
  out[i] = float(a);
  out[n + i] = float(a * b);
  out[2 * n + i] = float(a + b);
  out[3 * n + i] = float(a * b + a);
}
