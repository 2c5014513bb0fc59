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

// What an instance says besides its name does not count.
namespace slots {
constant constexpr int first = 2;

template <typename T, int N>
[[kernel, max_total_threads_per_threadgroup(N * 8)]] void moved(
    device T* to [[buffer(first)]],
    device const T* from [[buffer(first + N)]],
    uint i [[thread_position_in_grid]],
    uint n [[threads_per_grid]]) {
  to[n - 1 - i] = from[i];
}

template [[host_name("moved_in"),
           max_total_threads_per_threadgroup(64)]] [[kernel]] void
moved<float, 4>(device float* to [[buffer(0)]],
                device const float* from [[buffer(1)]],
                uint i [[thread_index_in_simdgroup]],
                uint n [[threads_per_threadgroup]]);
}  // namespace slots

template [[host_name("moved_out"), max_total_threads_per_threadgroup(64)]]
[[kernel]] decltype(slots::moved<float, 8>) slots::moved<float, 8>;
