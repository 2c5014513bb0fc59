// csrc/device/sim/msl/accept_internals.h: names inside Apple's headers that
// public kernels call by themselves, mostly to give bfloat what the library
// does not; see accept.h.  As wide as can be: their rules are written nowhere.
#pragma once

// clang-format off
#define MSL_INTERNALS(f)                                                      \
  f(fabs) f(acos) f(acosh) f(asin) f(asinh) f(atan) f(atan2) f(atanh) f(ceil) \
  f(clamp) f(copysign) f(cos) f(cosh) f(cospi) f(divide) f(exp) f(exp10)      \
  f(exp2) f(fdim) f(floor) f(fma) f(fmax) f(fmax3) f(fmedian3) f(fmin)        \
  f(fmin3) f(fmod) f(fract) f(frexp) f(ldexp) f(log) f(log10) f(log2) f(mix)  \
  f(modf) f(nextafter) f(pow) f(powr) f(rint) f(round) f(rsqrt) f(saturate)   \
  f(sign) f(sin) f(sincos) f(sinh) f(sinpi) f(smoothstep) f(sqrt) f(step)     \
  f(tan) f(tanh) f(tanpi) f(trunc) f(get_simdgroup_size)                      \
  f(simd_and) f(simd_broadcast) f(simd_broadcast_first) f(simd_max)           \
  f(simd_min) f(simd_or) f(simd_prefix_exclusive_product)                     \
  f(simd_prefix_exclusive_sum) f(simd_prefix_inclusive_product)               \
  f(simd_prefix_inclusive_sum) f(simd_product) f(simd_shuffle)                \
  f(simd_shuffle_and_fill_down) f(simd_shuffle_and_fill_up)                   \
  f(simd_shuffle_down) f(simd_shuffle_rotate_down) f(simd_shuffle_rotate_up)  \
  f(simd_shuffle_up) f(simd_shuffle_xor) f(simd_sum) f(simd_xor)
// clang-format on
#define MSL_INTERNAL(name)          \
  template <class T, class... More> \
  T __metal_##name(T, More...);
MSL_INTERNALS(MSL_INTERNAL)
#undef MSL_INTERNAL
#undef MSL_INTERNALS
