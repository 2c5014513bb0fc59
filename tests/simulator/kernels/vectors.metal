// tests/simulator/kernels/vectors.metal: constructors, swizzles, packed
// vectors, comparisons, as_type and common functions; each line writes one
// float4.
#include <metal_stdlib>
using namespace metal;

constant float3 kOffset = float3(1, 2, 3);

struct Pair {
  packed_float3 position;
  float weight;
};

kernel void vectors(device const float4* x [[buffer(0)]],
                    device float4* out [[buffer(1)]],
                    device const Pair* pairs [[buffer(2)]]) {
  float4 a = x[0];
  float4 b = x[1];
  out[0] = a.wzyx;
  out[1] = float4(a.xy * 2, b.zw);
  out[2] = select(a, b, a < b);
  a.yz = b.xy;
  out[3] = a;
  out[4] = float4(as_type<float>(0x40490fdbu), 0, as_type<float2>(1ul << 62));
  out[5] = float4(kOffset, dot(a, b));
  out[6] = float4(float3(pairs[1].position), pairs[1].weight);
  half4 h = half4(1.5h, 2, half2(3.25h));
  out[7] = float4(h);
  out[8] = clamp(x[1], -0.5, 0.5) + fma(a, x[1], 1.0);
  out[9] = float4(max(3, 7), popcount(255u), clz(1u), mulhi(0x80000000u, 4u));
}
