// csrc/device/sim/msl/internals.h: names inside Apple's headers that public
// kernels call by themselves; put before a text that has one.  What they do
// is assumed from those kernels, as nothing documents them.
#pragma once

// A last argument chooses between fast and precise.
#define MSL_INTERNAL1(name)                   \
  template <class T, class... Mode>           \
  MSL_INLINE T __metal_##name(T x, Mode...) { \
    return T(metal::name(x));                 \
  }
#define MSL_INTERNAL2(name)                        \
  template <class T, class S, class... Mode>       \
  MSL_INLINE T __metal_##name(T x, S y, Mode...) { \
    return T(metal::name(x, y));                   \
  }
#define MSL_INTERNAL3(name)                             \
  template <class T, class... Mode>                     \
  MSL_INLINE T __metal_##name(T x, T y, T z, Mode...) { \
    return T(metal::name(x, y, z));                     \
  }
MSL_INTERNAL1(fabs)
MSL_INTERNAL1(acos)
MSL_INTERNAL1(acosh)
MSL_INTERNAL1(asin)
MSL_INTERNAL1(asinh)
MSL_INTERNAL1(atan)
MSL_INTERNAL1(atanh)
MSL_INTERNAL1(ceil)
MSL_INTERNAL1(cos)
MSL_INTERNAL1(cosh)
MSL_INTERNAL1(cospi)
MSL_INTERNAL1(exp)
MSL_INTERNAL1(exp10)
MSL_INTERNAL1(exp2)
MSL_INTERNAL1(floor)
MSL_INTERNAL1(fract)
MSL_INTERNAL1(log)
MSL_INTERNAL1(log10)
MSL_INTERNAL1(log2)
MSL_INTERNAL1(rint)
MSL_INTERNAL1(round)
MSL_INTERNAL1(rsqrt)
MSL_INTERNAL1(saturate)
MSL_INTERNAL1(sign)
MSL_INTERNAL1(sin)
MSL_INTERNAL1(sinh)
MSL_INTERNAL1(sinpi)
MSL_INTERNAL1(sqrt)
MSL_INTERNAL1(tan)
MSL_INTERNAL1(tanh)
MSL_INTERNAL1(tanpi)
MSL_INTERNAL1(trunc)
MSL_INTERNAL2(atan2)
MSL_INTERNAL2(copysign)
MSL_INTERNAL2(divide)
MSL_INTERNAL2(fdim)
MSL_INTERNAL2(fmax)
MSL_INTERNAL2(fmin)
MSL_INTERNAL2(fmod)
MSL_INTERNAL2(ldexp)
MSL_INTERNAL2(nextafter)
MSL_INTERNAL2(pow)
MSL_INTERNAL2(powr)
MSL_INTERNAL2(step)
MSL_INTERNAL3(clamp)
MSL_INTERNAL3(fma)
MSL_INTERNAL3(fmax3)
MSL_INTERNAL3(fmedian3)
MSL_INTERNAL3(fmin3)
MSL_INTERNAL3(mix)
MSL_INTERNAL3(smoothstep)
#undef MSL_INTERNAL1
#undef MSL_INTERNAL2
#undef MSL_INTERNAL3

// A pointer or a reference takes the second result.
template <class T, class U, class... Mode>
MSL_INLINE T __metal_frexp(T x, U* exponent, Mode...) {
  return metal::frexp(x, *exponent);
}
template <class T, class U, class... Mode>
MSL_INLINE T __metal_modf(T x, U* whole, Mode...) {
  return metal::modf(x, *whole);
}
template <class T, class U, class... Mode>
MSL_INLINE T __metal_sincos(T x, U* cosine, Mode...) {
  return metal::sincos(x, *cosine);
}

template <class T>
MSL_INLINE T __metal_get_simdgroup_size(T) {
  return T(orchard::sim::abi::lanes);
}
template <class T>
MSL_INLINE T __metal_get_thread_index_in_simdgroup(T) {
  return T(metal::msl_detail::lane());
}

#define MSL_INTERNAL_SIMD(name)                        \
  template <class T, class... More>                    \
  MSL_INLINE T __metal_##name(T value, More... more) { \
    return metal::name(value, more...);                \
  }
MSL_INTERNAL_SIMD(simd_broadcast)
MSL_INTERNAL_SIMD(simd_broadcast_first)
MSL_INTERNAL_SIMD(simd_max)
MSL_INTERNAL_SIMD(simd_min)
MSL_INTERNAL_SIMD(simd_prefix_exclusive_product)
MSL_INTERNAL_SIMD(simd_prefix_exclusive_sum)
MSL_INTERNAL_SIMD(simd_prefix_inclusive_product)
MSL_INTERNAL_SIMD(simd_prefix_inclusive_sum)
MSL_INTERNAL_SIMD(simd_product)
MSL_INTERNAL_SIMD(simd_shuffle)
MSL_INTERNAL_SIMD(simd_shuffle_and_fill_down)
MSL_INTERNAL_SIMD(simd_shuffle_and_fill_up)
MSL_INTERNAL_SIMD(simd_shuffle_down)
MSL_INTERNAL_SIMD(simd_shuffle_rotate_down)
MSL_INTERNAL_SIMD(simd_shuffle_rotate_up)
MSL_INTERNAL_SIMD(simd_shuffle_up)
MSL_INTERNAL_SIMD(simd_shuffle_xor)
MSL_INTERNAL_SIMD(simd_sum)
#undef MSL_INTERNAL_SIMD
// Of the bits, whatever the type.
#define MSL_INTERNAL_BITS(name)                             \
  template <class T>                                        \
  MSL_INLINE T __metal_##name(T value) {                    \
    if constexpr (sizeof(T) == 4) {                         \
      return as_type<T>(metal::name(as_type<uint>(value))); \
    } else {                                                \
      return metal::name(value);                            \
    }                                                       \
  }
MSL_INTERNAL_BITS(simd_and)
MSL_INTERNAL_BITS(simd_or)
MSL_INTERNAL_BITS(simd_xor)
#undef MSL_INTERNAL_BITS

// Copies of a tile by a whole simdgroup, between device and threadgroup memory.
struct __metal_simdgroup_event_t {
  void* event;
};
namespace metal::msl_detail {
// Of both tiles; what only the target has becomes zero.
MSL_INLINE void copy_tile(ulong bytes,
                          char* to,
                          ulong to_stride,
                          ulong2 to_tile,
                          const char* from,
                          ulong from_stride,
                          ulong2 from_tile,
                          uint line) {
  wait(msl_abi::Op::simdgroup_barrier, 0, line);
  ulong count = to_tile.x * to_tile.y;
  for (ulong i = lane(); i < count; i += msl_abi::lanes) {
    ulong x = i % to_tile.x, y = i / to_tile.x;
    bool is_there = x < from_tile.x && y < from_tile.y;
    for (ulong b = 0; b < bytes; ++b) {
      to[(y * to_stride + x) * bytes + b] =
          is_there ? from[(y * from_stride + x) * bytes + b] : 0;
    }
  }
}
}  // namespace metal::msl_detail

template <class To, class From>
MSL_INLINE __metal_simdgroup_event_t __metal_simdgroup_async_copy_1d(
    ulong bytes, ulong, To* to, const From* from, ulong count, MSL_SITE) {
  ulong2 tile(count, 1ul);
  metal::msl_detail::copy_tile(bytes, (char*)to, count, tile, (const char*)from,
                               count, tile, line);
  return {};
}
template <class To, class From>
MSL_INLINE __metal_simdgroup_event_t
__metal_simdgroup_async_copy_2d(ulong bytes,
                                ulong,
                                To* to,
                                ulong to_stride,
                                ulong,
                                ulong2 to_tile,
                                const From* from,
                                ulong from_stride,
                                ulong,
                                ulong2 from_tile,
                                long2,
                                int,
                                MSL_SITE) {
  metal::msl_detail::copy_tile(bytes, (char*)to, to_stride, to_tile,
                               (const char*)from, from_stride, from_tile, line);
  return {};
}
MSL_INLINE void __metal_wait_simdgroup_events(int,
                                              __metal_simdgroup_event_t*,
                                              MSL_SITE) {
  metal::msl_detail::wait(orchard::sim::abi::Op::simdgroup_barrier, 0, line);
}

// What a lane holds of a matrix, which takes 64 components by name.
namespace metal {
template <class T>
struct vec<T, 64> {
  vec<T, 2> elements;
};
}  // namespace metal
template <class A, class B, class C>
MSL_INLINE metal::vec<C, 64> __metal_simdgroup_matrix_8x8_multiply_accumulate(
    const metal::vec<A, 64>& a,
    const metal::vec<B, 64>& b,
    const metal::vec<C, 64>& c,
    metal::vec<C, 64> result,
    MSL_SITE) {
  // Nobody tells when a lane changes its elements.
  metal::msl_detail::touch();
  metal::msl_detail::reach_multiply((C*)&result, (const A*)&a, (const B*)&b,
                                    (const C*)&c, line);
  return result;
}
