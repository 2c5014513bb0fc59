// csrc/device/sim/msl/accept_math.h: the functions of Metal's standard library
// for the type checker, with the very overloads that Metal has, so that calls
// are ambiguous, and own functions clash, where they are and do there; see
// accept.h.
//
// Scalars are not computed.  Vectors have bodies, as they would have to lie in
// memory for a call.
#pragma once

#include "accept_vector.h"

namespace metal {

#define MSL_ARGS1(T) T x
#define MSL_ARGS2(T) T x, T y
#define MSL_ARGS3(T) T x, T y, T z
#define MSL_CALL1(f, i) f(x.msl_v[i])
#define MSL_CALL2(f, i) f(x.msl_v[i], y.msl_v[i])
#define MSL_CALL3(f, i) f(x.msl_v[i], y.msl_v[i], z.msl_v[i])
#define MSL_WIDTH2(call, f) call(f, 0), call(f, 1)
#define MSL_WIDTH3(call, f) MSL_WIDTH2(call, f), call(f, 2)
#define MSL_WIDTH4(call, f) MSL_WIDTH3(call, f), call(f, 3)
// A function of so many arguments of type T, for scalars and vectors.
#define MSL_VECTOR(count, R, T, N, name)                     \
  MSL_INLINE vec<R, N> name(MSL_ARGS##count(MSL_OF(T, N))) { \
    return vec<R, N>(MSL_WIDTH##N(MSL_CALL##count, name));   \
  }
#define MSL_OF(T, N) vec<T, N>
#define MSL_FUNCTION(count, R, T, name) \
  MSL_PURE R name(MSL_ARGS##count(T));  \
  MSL_VECTOR(count, R, T, 2, name)      \
  MSL_VECTOR(count, R, T, 3, name)      \
  MSL_VECTOR(count, R, T, 4, name)

// One whose last argument is written, as the second result.
#define MSL_WRITES(T, E, name)               \
  MSL_INLINE T name(T x, thread E& second) { \
    second = E(msl_unknown(x));              \
    return msl_unknown(x);                   \
  }                                          \
  MSL_WRITES_N(T, E, 2, name)                \
  MSL_WRITES_N(T, E, 3, name)                \
  MSL_WRITES_N(T, E, 4, name)
#define MSL_WRITES_N(T, E, N, name)                                           \
  MSL_INLINE vec<T, N> name(vec<T, N> x, thread vec<E, N>& second) {          \
    for (int i = 0; i < N; ++i) second.msl_v[i] = E(msl_unknown(x.msl_v[i])); \
    return x;                                                                 \
  }
template <class T>
MSL_PURE T msl_unknown(T);

// By value, as the place of an object is no register.
template <class T>
MSL_INLINE T msl_either(T x, T y, bool c) {
  return c ? y : x;
}

#if MSL_LANGUAGE >= 310
#define MSL_FROM_310(f) f
#else
#define MSL_FROM_310(f)
#endif
// clang-format off
#define MSL_MATH(T)                                                           \
  MSL_FUNCTION(1, T, T, abs) MSL_FUNCTION(1, T, T, acos)                      \
  MSL_FUNCTION(1, T, T, acosh) MSL_FUNCTION(1, T, T, asin)                    \
  MSL_FUNCTION(1, T, T, asinh) MSL_FUNCTION(1, T, T, atan)                    \
  MSL_FUNCTION(1, T, T, atanh) MSL_FUNCTION(1, T, T, ceil)                    \
  MSL_FUNCTION(1, T, T, cos) MSL_FUNCTION(1, T, T, cosh)                      \
  MSL_FUNCTION(1, T, T, cospi) MSL_FUNCTION(1, T, T, exp)                     \
  MSL_FUNCTION(1, T, T, exp10) MSL_FUNCTION(1, T, T, exp2)                    \
  MSL_FUNCTION(1, T, T, fabs) MSL_FUNCTION(1, T, T, floor)                    \
  MSL_FUNCTION(1, T, T, fract) MSL_FUNCTION(1, T, T, log)                     \
  MSL_FUNCTION(1, T, T, log10) MSL_FUNCTION(1, T, T, log2)                    \
  MSL_FUNCTION(1, T, T, rint) MSL_FUNCTION(1, T, T, round)                    \
  MSL_FUNCTION(1, T, T, rsqrt) MSL_FUNCTION(1, T, T, sin)                     \
  MSL_FUNCTION(1, T, T, sinh) MSL_FUNCTION(1, T, T, sinpi)                    \
  MSL_FUNCTION(1, T, T, sqrt) MSL_FUNCTION(1, T, T, tan)                      \
  MSL_FUNCTION(1, T, T, tanh) MSL_FUNCTION(1, T, T, tanpi)                    \
  MSL_FUNCTION(1, T, T, trunc) MSL_FUNCTION(1, int, T, ilogb)                 \
  MSL_FUNCTION(1, T, T, saturate)                                             \
  MSL_FUNCTION(2, T, T, atan2) MSL_FUNCTION(2, T, T, copysign)                \
  MSL_FUNCTION(2, T, T, divide) MSL_FUNCTION(2, T, T, fdim)                   \
  MSL_FUNCTION(2, T, T, fmax) MSL_FUNCTION(2, T, T, fmin)                     \
  MSL_FUNCTION(2, T, T, fmod) MSL_FUNCTION(2, T, T, max)                      \
  MSL_FUNCTION(2, T, T, min) MSL_FUNCTION(2, T, T, pow)                       \
  MSL_FUNCTION(2, T, T, powr)                                                 \
  MSL_FROM_310(MSL_FUNCTION(2, T, T, nextafter))                              \
  MSL_FUNCTION(3, T, T, clamp) MSL_FUNCTION(3, T, T, fma)                     \
  MSL_FUNCTION(3, T, T, fmax3) MSL_FUNCTION(3, T, T, fmedian3)                \
  MSL_FUNCTION(3, T, T, fmin3) MSL_FUNCTION(3, T, T, max3)                    \
  MSL_FUNCTION(3, T, T, median3) MSL_FUNCTION(3, T, T, min3)                  \
  MSL_WRITES(T, int, frexp) MSL_WRITES(T, T, modf) MSL_WRITES(T, T, sincos)   \
  MSL_PURE T ldexp(T x, int y);                                               \
  MSL_LDEXP(T, 2) MSL_LDEXP(T, 3) MSL_LDEXP(T, 4)
#define MSL_LDEXP(T, N)                                          \
  MSL_INLINE vec<T, N> ldexp(vec<T, N> x, vec<int, N> y) {       \
    return vec<T, N>(MSL_WIDTH##N(MSL_CALL2, ldexp));            \
  }
// Of vectors one number, or a vector again.
#define MSL_LENGTHS(T)                                                        \
  MSL_LENGTH(T, 2) MSL_LENGTH(T, 3) MSL_LENGTH(T, 4)
#define MSL_LENGTH(T, N)                                                      \
  MSL_INLINE T length(vec<T, N> x) { return msl_unknown(x.msl_v[0]); }        \
  MSL_INLINE T distance(vec<T, N> x, vec<T, N> y) { return msl_unknown(x.msl_v[0]); } \
  MSL_INLINE vec<T, N> normalize(vec<T, N> x) { return x; }
#define MSL_GEOMETRY(T) MSL_GEOMETRY_N(T, 2) MSL_GEOMETRY_N(T, 3)             \
  MSL_GEOMETRY_N(T, 4)                                                        \
  MSL_INLINE vec<T, 3> cross(vec<T, 3> x, vec<T, 3> y) {                      \
    return x.yzx * y.zxy - x.zxy * y.yzx;                                     \
  }
#define MSL_GEOMETRY_N(T, N)                                                  \
  MSL_INLINE T dot(vec<T, N> x, vec<T, N> y) {                                \
    T sum = T(0);                                                             \
    for (int i = 0; i < N; ++i) sum += x.msl_v[i] * y.msl_v[i];               \
    return sum;                                                               \
  }                                                                           \
  MSL_INLINE T length_squared(vec<T, N> x) { return dot(x, x); }              \
  MSL_INLINE T distance_squared(vec<T, N> x, vec<T, N> y) {                   \
    return dot(x - y, x - y);                                                 \
  }                                                                           \
  MSL_INLINE vec<T, N> faceforward(vec<T, N> n, vec<T, N> i, vec<T, N> r) {   \
    return n * sign(dot(r, i));                                               \
  }                                                                           \
  MSL_INLINE vec<T, N> reflect(vec<T, N> i, vec<T, N> n) {                    \
    return i - n * dot(n, i);                                                 \
  }                                                                           \
  MSL_INLINE vec<T, N> refract(vec<T, N> i, vec<T, N> n, T eta) {             \
    return i * eta - n * dot(n, i);                                           \
  }
#define MSL_COMMON(T)                                                         \
  MSL_FUNCTION(3, T, T, mix) MSL_FUNCTION(3, T, T, smoothstep)                \
  MSL_FUNCTION(2, T, T, step) MSL_FUNCTION(1, T, T, sign)

#define MSL_INTEGER(T)                                                        \
  MSL_FUNCTION(1, T, T, abs) MSL_FUNCTION(1, T, T, clz)                       \
  MSL_FUNCTION(1, T, T, ctz) MSL_FUNCTION(1, T, T, popcount)                  \
  MSL_FUNCTION(1, T, T, reverse_bits)                                         \
  MSL_FUNCTION(2, T, T, addsat) MSL_FUNCTION(2, T, T, hadd)                   \
  MSL_FUNCTION(2, T, T, max) MSL_FUNCTION(2, T, T, min)                       \
  MSL_FUNCTION(2, T, T, mulhi) MSL_FUNCTION(2, T, T, rhadd)                   \
  MSL_FUNCTION(2, T, T, rotate) MSL_FUNCTION(2, T, T, subsat)                 \
  MSL_FUNCTION(2, make_unsigned_t<T>, T, absdiff)                             \
  MSL_FUNCTION(3, T, T, clamp) MSL_FUNCTION(3, T, T, madhi)                   \
  MSL_FUNCTION(3, T, T, madsat) MSL_FUNCTION(3, T, T, max3)                   \
  MSL_FUNCTION(3, T, T, median3) MSL_FUNCTION(3, T, T, min3)                  \
  MSL_PURE T extract_bits(T, uint, uint);                                     \
  MSL_PURE T insert_bits(T, T, uint, uint);                                   \
  MSL_BITS(T, 2) MSL_BITS(T, 3) MSL_BITS(T, 4)
#define MSL_BITS(T, N)                                                        \
  MSL_INLINE vec<T, N> extract_bits(vec<T, N> x, uint, uint) { return x; }    \
  MSL_INLINE vec<T, N> insert_bits(vec<T, N> x, vec<T, N>, uint, uint) {      \
    return x;                                                                 \
  }
#define MSL_24(T) MSL_FUNCTION(2, T, T, mul24) MSL_FUNCTION(3, T, T, mad24)

#define MSL_RELATIONAL(T)                                                     \
  MSL_FUNCTION(1, bool, T, isfinite) MSL_FUNCTION(1, bool, T, isinf)          \
  MSL_FUNCTION(1, bool, T, isnan) MSL_FUNCTION(1, bool, T, isnormal)          \
  MSL_FUNCTION(1, bool, T, signbit)                                           \
  MSL_FUNCTION(2, bool, T, isordered) MSL_FUNCTION(2, bool, T, isunordered)
#define MSL_SELECT(T)                                                         \
  MSL_INLINE T select(T x, T y, bool c) { return msl_either(x, y, c); }       \
  MSL_SELECT_N(T, 2) MSL_SELECT_N(T, 3) MSL_SELECT_N(T, 4)
#define MSL_SELECT_N(T, N)                                                    \
  MSL_INLINE vec<T, N> select(vec<T, N> x, vec<T, N> y, vec<bool, N> c) {     \
    for (int i = 0; i < N; ++i) {                                             \
      x.msl_v[i] = msl_either(x.msl_v[i], y.msl_v[i], c.msl_v[i]);            \
    }                                                                         \
    return x;                                                                 \
  }
// clang-format on

MSL_MATH(half)
MSL_MATH(float)
MSL_COMMON(half)
MSL_COMMON(float)
MSL_LENGTHS(half)
MSL_LENGTHS(float)
MSL_GEOMETRY(half)
MSL_GEOMETRY(float)
MSL_EACH_INTEGER(MSL_INTEGER)
MSL_24(int)
MSL_24(uint)
MSL_EACH_FLOAT(MSL_RELATIONAL)
MSL_EACH_FLOAT(MSL_SELECT)
MSL_EACH_INTEGER(MSL_SELECT)
MSL_SELECT(bool)
namespace fast {
MSL_MATH(float)
MSL_LENGTHS(float)
#if MSL_LANGUAGE >= 320
MSL_SELECT(float)
#endif
}  // namespace fast
namespace precise {
MSL_MATH(float)
MSL_LENGTHS(float)
#if MSL_LANGUAGE >= 320
MSL_SELECT(float)
#endif
}  // namespace precise

MSL_INLINE bool any(bool x) { return x; }
MSL_INLINE bool all(bool x) { return x; }
#define MSL_VOTE(N)                                        \
  MSL_INLINE bool any(vec<bool, N> x) {                    \
    bool some = false;                                     \
    for (int i = 0; i < N; ++i) some = some || x.msl_v[i]; \
    return some;                                           \
  }                                                        \
  MSL_INLINE bool all(vec<bool, N> x) { return !any(!x); }
MSL_VOTE(2)
MSL_VOTE(3)
MSL_VOTE(4)
#undef MSL_VOTE

#define MSL_PACKING(name, T, W, N) \
  MSL_INLINE vec<T, N> unpack_##name##_to_##T(W x) { return vec<T, N>(T(x)); }
#define MSL_PACKINGS(T)                                                     \
  MSL_PACKING(unorm4x8, T, uint, 4)                                         \
  MSL_PACKING(snorm4x8, T, uint, 4)                                         \
  MSL_PACKING(unorm4x8_srgb, T, uint, 4)                                    \
  MSL_PACKING(unorm10a2, T, uint, 4)                                        \
  MSL_PACKING(unorm2x16, T, uint, 2)                                        \
  MSL_PACKING(snorm2x16, T, uint, 2)                                        \
  MSL_PACKING(unorm565, T, ushort, 3)                                       \
  MSL_INLINE uint pack_##T##_to_unorm4x8(T##4 x) { return uint(x.x); }      \
  MSL_INLINE uint pack_##T##_to_snorm4x8(T##4 x) { return uint(x.x); }      \
  MSL_INLINE uint pack_##T##_to_srgb_unorm4x8(T##4 x) { return uint(x.x); } \
  MSL_INLINE uint pack_##T##_to_unorm10a2(T##4 x) { return uint(x.x); }     \
  MSL_INLINE uint pack_##T##_to_unorm2x16(T##2 x) { return uint(x.x); }     \
  MSL_INLINE uint pack_##T##_to_snorm2x16(T##2 x) { return uint(x.x); }     \
  MSL_INLINE ushort pack_##T##_to_unorm565(T##3 x) { return ushort(x.x); }
MSL_PACKINGS(half)
MSL_PACKINGS(float)
#undef MSL_PACKINGS
#undef MSL_PACKING

#undef MSL_MATH
#undef MSL_COMMON
#undef MSL_GEOMETRY
#undef MSL_LENGTHS
#undef MSL_INTEGER
#undef MSL_RELATIONAL
#undef MSL_SELECT

// Numbers of what a type can hold; by this name public kernels add types.
template <class T>
struct _numeric_limits_impl {
  static constexpr __constant bool is_specialized = false;
};
template <class T>
struct msl_integer_limits {
  static constexpr __constant bool is_specialized = true;
  static constexpr __constant bool is_signed = __is_signed(T);
  static constexpr __constant bool is_integer = true;
  static constexpr __constant bool is_exact = true;
  static constexpr __constant bool has_infinity = false;
  static constexpr __constant bool has_quiet_NaN = false;
  static constexpr __constant bool has_signaling_NaN = false;
  static constexpr __constant bool is_bounded = true;
  static constexpr __constant bool is_iec559 = false;
  static constexpr __constant bool is_modulo = !is_signed;
  static constexpr __constant int radix = 2;
  static constexpr __constant int digits =
      __is_same(T, bool) ? 1 : int(sizeof(T) * 8) - is_signed;
  static constexpr __constant int digits10 = digits * 3 / 10;
  static constexpr __constant int max_digits10 = 0;
  static constexpr T max() {
    return __is_same(T, bool) ? T(1)
           : is_signed ? T((1ul << (digits - 1)) - 1 + (1ul << (digits - 1)))
                       : T(~0ul);
  }
  static constexpr T min() { return is_signed ? T(-max() - 1) : T(0); }
  static constexpr T lowest() { return min(); }
  static constexpr T epsilon() { return T(0); }
  static constexpr T round_error() { return T(0); }
  static constexpr T infinity() { return T(0); }
  static constexpr T quiet_NaN() { return T(0); }
  static constexpr T signaling_NaN() { return T(0); }
  static constexpr T denorm_min() { return T(0); }
};
template <class T>
struct msl_float_limits {
  static constexpr __constant bool is_specialized = true;
  static constexpr __constant bool is_signed = true;
  static constexpr __constant bool is_integer = false;
  static constexpr __constant bool is_exact = false;
  static constexpr __constant bool has_infinity = true;
  static constexpr __constant bool has_quiet_NaN = true;
  static constexpr __constant bool has_signaling_NaN = true;
  static constexpr __constant bool is_bounded = true;
  static constexpr __constant bool is_iec559 = true;
  static constexpr __constant bool is_modulo = false;
  static constexpr __constant int radix = 2;
  static constexpr T infinity() { return T(__builtin_inff()); }
  static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }
  static constexpr T signaling_NaN() { return T(__builtin_nanf("")); }
  static constexpr T round_error() { return T(0.5f); }
};
#define MSL_LIMITS(T, digit_count, decimal, most, least, step, tiniest, \
                   exponent)                                            \
  template <>                                                           \
  struct _numeric_limits_impl<T> : msl_float_limits<T> {                \
    static constexpr __constant int digits = digit_count;               \
    static constexpr __constant int digits10 = decimal;                 \
    static constexpr __constant int max_digits10 = decimal + 3;         \
    static constexpr __constant int max_exponent = exponent;            \
    static constexpr __constant int min_exponent = 3 - exponent;        \
    static constexpr T max() { return T(most); }                        \
    static constexpr T lowest() { return T(-(most)); }                  \
    static constexpr T min() { return T(least); }                       \
    static constexpr T epsilon() { return T(step); }                    \
    static constexpr T denorm_min() { return T(tiniest); }              \
  };
MSL_LIMITS(float, 24, 6, 0x1.fffffep127f, 0x1p-126f, 0x1p-23f, 0x1p-149f, 128)
MSL_LIMITS(half, 11, 3, 65504.0f, 0x1p-14f, 0x1p-10f, 0x1p-24f, 16)
#if MSL_LANGUAGE >= 310
MSL_LIMITS(bfloat, 8, 2, 0x1.fep127f, 0x1p-126f, 0x1p-7f, 0x1p-133f, 128)
#endif
#undef MSL_LIMITS
#define MSL_LIMITS(T) \
  template <>         \
  struct _numeric_limits_impl<T> : msl_integer_limits<T> {};
MSL_EACH_INTEGER(MSL_LIMITS)
MSL_LIMITS(bool)
MSL_LIMITS(signed char)
#undef MSL_LIMITS
template <class T>
struct numeric_limits : _numeric_limits_impl<remove_cv_t<make_scalar_t<T>>> {};

// Of a conditional operator; see repair().
template <class T>
MSL_INLINE constexpr T msl_value(T x) {
  return x;
}

// Of a member in a member function; see repair().  What is no such stays as it
// is.
template <class T>
MSL_INLINE constexpr thread T& msl_in_thread(__generic T& x) {
  return (thread T&)x;
}
#define MSL_STAYS(space)                                    \
  template <class T>                                        \
  MSL_INLINE constexpr space T& msl_in_thread(space T& x) { \
    return x;                                               \
  }
MSL_STAYS(thread)
MSL_STAYS(device)
MSL_STAYS(threadgroup)
MSL_STAYS(__constant)
#undef MSL_STAYS
template <class T>
MSL_INLINE constexpr T msl_in_thread(const __generic T&& x) {
  return x;
}
// Of an element: one of a vector is no object that a reference could name.
template <class T>
MSL_INLINE constexpr decltype(auto) msl_element_in_thread(__generic T& x) {
  if constexpr (__is_class(T) || __is_array(T)) {
    return ((thread T&)x);
  } else {
    return (x);
  }
}
#define MSL_STAYS(space)                                            \
  template <class T>                                                \
  MSL_INLINE constexpr space T& msl_element_in_thread(space T& x) { \
    return x;                                                       \
  }
MSL_STAYS(thread)
MSL_STAYS(device)
MSL_STAYS(threadgroup)
MSL_STAYS(__constant)
#undef MSL_STAYS
template <class T>
MSL_INLINE constexpr T msl_element_in_thread(const __generic T&& x) {
  return x;
}

// Between types of one size; of numbers and their vectors only.
template <class T>
constexpr __constant bool msl_has_bits = is_arithmetic<T>::value;
template <class To, class From>
MSL_INLINE constexpr To as_type(From x) {
  static_assert(msl_has_bits<To> && msl_has_bits<From>,
                "as_type is for scalars and vectors only");
  static_assert(sizeof(To) == sizeof(From),
                "as_type cast between types of different size is not allowed");
  return __builtin_bit_cast(To, x);
}
}  // namespace metal

using metal::as_type;
