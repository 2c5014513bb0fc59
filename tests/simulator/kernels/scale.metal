// tests/simulator/kernels/scale.metal: a kernel template with two names.
#include <metal_stdlib>
using namespace metal;

template <typename T, int N>
[[kernel]] void scale(device T* x [[buffer(0)]],
                      uint i [[thread_position_in_grid]]) {
  x[i] = T(x[i] * T(N));
}

template [[host_name("scale_half_3")]] [[kernel]] void scale<half, 3>(
    device half* x [[buffer(0)]], uint i [[thread_position_in_grid]]);

#define INSTANTIATE(name, T, N) \
  template [[host_name(name)]] [[kernel]] decltype(scale<T, N>) scale<T, N>;
INSTANTIATE("scale_float_5", float, 5)
