// csrc/device/sim/msl/math.h: Metal's arithmetic functions, for scalars and by
// component for vectors.
#pragma once

namespace metal {

#define MSL_INTEGERS(F) \
  F(char) F(uchar) F(short) F(ushort) F(int) F(uint) F(long) F(ulong)

// By component of vectors.
#define MSL_LIFT1(name)                                       \
  template <class T, uint N>                                  \
  MSL_INLINE auto name(vec<T, N> a) {                         \
    vec<decltype(name(a.x)), N> r;                            \
    for (uint i = 0; i < N; ++i) r.data[i] = name(a.data[i]); \
    return r;                                                 \
  }
#define MSL_LIFT2(name)                                                        \
  template <class T, uint N>                                                   \
  MSL_INLINE vec<T, N> name(vec<T, N> a, vec<T, N> b) {                        \
    vec<T, N> r;                                                               \
    for (uint i = 0; i < N; ++i) r.data[i] = name(a.data[i], b.data[i]);       \
    return r;                                                                  \
  }                                                                            \
  template <class T, uint N, class S, class = enable_if_t<is_arithmetic_v<S>>> \
  MSL_INLINE vec<T, N> name(vec<T, N> a, S b) {                                \
    return name(a, vec<T, N>(T(b)));                                           \
  }                                                                            \
  template <class T, uint N, class S, class = enable_if_t<is_arithmetic_v<S>>> \
  MSL_INLINE vec<T, N> name(S a, vec<T, N> b) {                                \
    return name(vec<T, N>(T(a)), b);                                           \
  }
// Scalars among vectors apply to each component.
#define MSL_MIXED(name, parameters, ...)                                       \
  template <class T, uint N, class S, class = enable_if_t<is_arithmetic_v<S>>> \
  MSL_INLINE vec<T, N> name parameters {                                       \
    return name(__VA_ARGS__);                                                  \
  }
#define MSL_LIFT3(name)                                                   \
  template <class T, uint N>                                              \
  MSL_INLINE vec<T, N> name(vec<T, N> a, vec<T, N> b, vec<T, N> c) {      \
    vec<T, N> r;                                                          \
    for (uint i = 0; i < N; ++i) {                                        \
      r.data[i] = name(a.data[i], b.data[i], c.data[i]);                  \
    }                                                                     \
    return r;                                                             \
  }                                                                       \
  MSL_MIXED(name, (vec<T, N> a, S b, S c), a, vec<T, N>(T(b)),            \
            vec<T, N>(T(c)))                                              \
  MSL_MIXED(name, (vec<T, N> a, vec<T, N> b, S c), a, b, vec<T, N>(T(c))) \
  MSL_MIXED(name, (vec<T, N> a, S b, vec<T, N> c), a, vec<T, N>(T(b)), c) \
  MSL_MIXED(name, (S a, vec<T, N> b, vec<T, N> c), vec<T, N>(T(a)), b, c) \
  MSL_MIXED(name, (S a, S b, vec<T, N> c), vec<T, N>(T(a)), vec<T, N>(T(b)), c)

// Templates, as some texts bring functions of bfloat of their own.
template <class T>
inline constexpr bool msl_is_bfloat = is_same_v<T, bfloat>;
template <class T>
inline constexpr bool msl_is_widened = is_integral_v<T> || msl_is_bfloat<T>;

// In float; half results are rounded, bfloat ones stay float as in MSL.
#define MSL_FLOAT1(name, expression)                            \
  MSL_INLINE float name(float x) { return expression; }         \
  MSL_INLINE half name(half h) { return half(name(float(h))); } \
  template <class T, class = enable_if_t<msl_is_widened<T>>>    \
  MSL_INLINE float name(T x) {                                  \
    return name(float(x));                                      \
  }                                                             \
  MSL_LIFT1(name)
#define MSL_FLOAT2(name, expression)                             \
  MSL_INLINE float name(float x, float y) { return expression; } \
  MSL_INLINE half name(half x, half y) {                         \
    return half(name(float(x), float(y)));                       \
  }                                                              \
  template <class T, class = enable_if_t<msl_is_bfloat<T>>>      \
  MSL_INLINE float name(T x, T y) {                              \
    return name(float(x), float(y));                             \
  }                                                              \
  MSL_LIFT2(name)

namespace msl_detail {
MSL_INLINE msl_abi::Context* counted() {
  msl_abi::Context* c = msl_abi::context();
  c->counters.exponentials += 1;
  return c;
}
}  // namespace msl_detail
#define MSL_RUN(name) msl_abi::context()->runtime->name
#define MSL_RUN_COUNTED(name) msl_detail::counted()->runtime->name

#define MSL_FLOAT_FUNCTIONS                    \
  MSL_FLOAT1(exp, MSL_RUN_COUNTED(exp)(x))     \
  MSL_FLOAT1(exp2, MSL_RUN_COUNTED(exp2)(x))   \
  MSL_FLOAT1(exp10, MSL_RUN_COUNTED(exp10)(x)) \
  MSL_FLOAT1(log, MSL_RUN_COUNTED(log)(x))     \
  MSL_FLOAT1(log2, MSL_RUN_COUNTED(log2)(x))   \
  MSL_FLOAT1(log10, MSL_RUN_COUNTED(log10)(x)) \
  MSL_FLOAT1(tanh, MSL_RUN_COUNTED(tanh)(x))   \
  MSL_FLOAT1(sin, MSL_RUN(sin)(x))             \
  MSL_FLOAT1(cos, MSL_RUN(cos)(x))             \
  MSL_FLOAT1(tan, MSL_RUN(tan)(x))             \
  MSL_FLOAT1(asin, MSL_RUN(asin)(x))           \
  MSL_FLOAT1(acos, MSL_RUN(acos)(x))           \
  MSL_FLOAT1(atan, MSL_RUN(atan)(x))           \
  MSL_FLOAT1(sinh, MSL_RUN(sinh)(x))           \
  MSL_FLOAT1(cosh, MSL_RUN(cosh)(x))           \
  MSL_FLOAT1(sqrt, __builtin_sqrtf(x))         \
  MSL_FLOAT1(rsqrt, 1.0f / __builtin_sqrtf(x)) \
  MSL_FLOAT1(recip, 1.0f / x)                  \
  MSL_FLOAT2(pow, MSL_RUN_COUNTED(pow)(x, y))  \
  MSL_FLOAT2(powr, MSL_RUN_COUNTED(pow)(x, y)) \
  MSL_FLOAT2(atan2, MSL_RUN(atan2)(x, y))      \
  MSL_FLOAT2(fmod, MSL_RUN(fmod)(x, y))        \
  MSL_FLOAT2(divide, x / y)

MSL_FLOAT_FUNCTIONS
namespace fast {
MSL_FLOAT_FUNCTIONS
}
namespace precise {
MSL_FLOAT_FUNCTIONS
}

MSL_FLOAT1(acosh, __builtin_acoshf(x))
MSL_FLOAT1(asinh, __builtin_asinhf(x))
MSL_FLOAT1(atanh, __builtin_atanhf(x))
MSL_FLOAT1(sinpi, sin(x * 3.14159274101257f))
MSL_FLOAT1(cospi, cos(x * 3.14159274101257f))
MSL_FLOAT1(tanpi, tan(x * 3.14159274101257f))
MSL_FLOAT2(nextafter, __builtin_nextafterf(x, y))
MSL_FLOAT2(fdim, __builtin_fdimf(x, y))
MSL_FLOAT1(floor, __builtin_floorf(x))
MSL_FLOAT1(ceil, __builtin_ceilf(x))
MSL_FLOAT1(trunc, __builtin_truncf(x))
MSL_FLOAT1(rint, __builtin_rintf(x))
MSL_FLOAT1(round, __builtin_roundf(x))
MSL_FLOAT1(fabs, __builtin_fabsf(x))
MSL_FLOAT1(fract, x - __builtin_floorf(x))
MSL_FLOAT1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
MSL_FLOAT1(saturate, x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f)
MSL_FLOAT2(copysign, __builtin_copysignf(x, y))
MSL_FLOAT2(step, y < x ? 0.0f : 1.0f)
MSL_FLOAT2(fmax, __builtin_fmaxf(x, y))
MSL_FLOAT2(fmin, __builtin_fminf(x, y))

MSL_INLINE float abs(float x) { return __builtin_fabsf(x); }
MSL_INLINE half abs(half x) { return half(__builtin_fabsf(float(x))); }
template <class T, class = enable_if_t<msl_is_bfloat<T>>>
MSL_INLINE float abs(T x) {
  return __builtin_fabsf(float(x));
}
MSL_LIFT1(abs)

// NaN loses, as in MSL's fmin and fmax.
MSL_INLINE float max(float a, float b) { return b != b ? a : (a > b ? a : b); }
MSL_INLINE float min(float a, float b) { return b != b ? a : (a < b ? a : b); }
MSL_INLINE half max(half a, half b) { return half(max(float(a), float(b))); }
MSL_INLINE half min(half a, half b) { return half(min(float(a), float(b))); }
template <class T, class = enable_if_t<msl_is_bfloat<T>>>
MSL_INLINE float max(T a, T b) {
  return max(float(a), float(b));
}
template <class T, class = enable_if_t<msl_is_bfloat<T>>>
MSL_INLINE float min(T a, T b) {
  return min(float(a), float(b));
}

// What public kernels specialise for types of their own.
template <class T>
struct _numeric_limits_impl {
  static constexpr bool is_specialized = false;
};
template <class T>
struct numeric_limits : _numeric_limits_impl<remove_cv_t<T>> {};
#define MSL_LIMITS(T, LOW, HIGH, SMALLEST, EPSILON, INF, QNAN, DIGITS, TENS) \
  template <>                                                                \
  struct _numeric_limits_impl<T> {                                           \
    static constexpr bool is_specialized = true;                             \
    static constexpr bool is_signed = T(-1) < T(0);                          \
    static constexpr bool is_integer = is_integral_v<T>;                     \
    static constexpr bool is_exact = is_integer;                             \
    static constexpr bool has_infinity = !is_integer;                        \
    static constexpr bool has_quiet_NaN = !is_integer;                       \
    static constexpr int radix = 2;                                          \
    static constexpr int digits = DIGITS;                                    \
    static constexpr int digits10 = TENS;                                    \
    static constexpr T max() { return T(HIGH); }                             \
    static constexpr T lowest() { return T(LOW); }                           \
    static constexpr T min() { return T(SMALLEST); }                         \
    static constexpr T epsilon() { return T(EPSILON); }                      \
    static constexpr T infinity() { return T(INF); }                         \
    static constexpr T quiet_NaN() { return T(QNAN); }                       \
    static constexpr T denorm_min() { return T(SMALLEST); }                  \
  };
MSL_LIMITS(float,
           -3.402823466e+38f,
           3.402823466e+38f,
           1.175494351e-38f,
           1.192092896e-07f,
           __builtin_inff(),
           __builtin_nanf(""),
           24,
           6)
MSL_LIMITS(half,
           -65504.0f,
           65504.0f,
           6.103515625e-05f,
           9.765625e-04f,
           __builtin_inff(),
           __builtin_nanf(""),
           11,
           3)
MSL_LIMITS(bfloat,
           -3.38953139e38f,
           3.38953139e38f,
           1.175494351e-38f,
           0.0078125f,
           __builtin_inff(),
           __builtin_nanf(""),
           8,
           2)
#define MSL_INTEGER_LIMITS(T)                                              \
  MSL_LIMITS(T, (T(-1) < T(0) ? T(1) << (8 * sizeof(T) - 1) : T(0)),       \
             (T(-1) < T(0) ? ~(T(1) << (8 * sizeof(T) - 1)) : ~T(0)),      \
             (T(-1) < T(0) ? T(1) << (8 * sizeof(T) - 1) : T(0)), 0, 0, 0, \
             int(8 * sizeof(T)) - (T(-1) < T(0) ? 1 : 0),                  \
             digits * 30103 / 100000)
MSL_INTEGERS(MSL_INTEGER_LIMITS)
typedef signed char signed_char;
MSL_INTEGER_LIMITS(signed_char)
MSL_LIMITS(bool, false, true, false, 0, 0, 0, 1, 0)

#define MSL_INTEGER(T)                                                         \
  MSL_INLINE T max(T a, T b) { return a > b ? a : b; }                         \
  MSL_INLINE T min(T a, T b) { return a < b ? a : b; }                         \
  MSL_INLINE T abs(T a) { return a < T(0) ? T(-a) : a; }                       \
  MSL_INLINE T clamp(T x, T low, T high) {                                     \
    return x < low ? low : x > high ? high : x;                                \
  }                                                                            \
  MSL_INLINE T popcount(T x) {                                                 \
    return T(__builtin_popcountll(ulong(x) & (~0ul >> (64 - 8 * sizeof(T))))); \
  }                                                                            \
  MSL_INLINE T clz(T x) {                                                      \
    ulong u = ulong(x) & (~0ul >> (64 - 8 * sizeof(T)));                       \
    return u ? T(__builtin_clzll(u) - (64 - 8 * int(sizeof(T))))               \
             : T(8 * sizeof(T));                                               \
  }                                                                            \
  MSL_INLINE T ctz(T x) {                                                      \
    return x ? T(__builtin_ctzll(ulong(x))) : T(8 * sizeof(T));                \
  }                                                                            \
  MSL_INLINE T reverse_bits(T x) {                                             \
    T r = 0;                                                                   \
    for (uint i = 0; i < 8 * sizeof(T); ++i)                                   \
      r |= T((x >> i) & 1) << (8 * sizeof(T) - 1 - i);                         \
    return r;                                                                  \
  }                                                                            \
  MSL_INLINE T extract_bits(T x, uint offset, uint bits) {                     \
    if (bits == 0) return 0;                                                   \
    constexpr uint width = 8 * sizeof(T);                                      \
    return T(T(x << (width - offset - bits)) >> (width - bits));               \
  }                                                                            \
  MSL_INLINE T insert_bits(T base, T in, uint offset, uint bits) {             \
    if (bits == 0) return base;                                                \
    ulong mask = (~0ul >> (64 - bits)) << offset;                              \
    return T((ulong(base) & ~mask) | ((ulong(in) << offset) & mask));          \
  }                                                                            \
  MSL_INLINE T rotate(T x, T by) {                                             \
    constexpr uint width = 8 * sizeof(T);                                      \
    ulong u = ulong(x) & (~0ul >> (64 - width));                               \
    uint n = uint(by) % width;                                                 \
    return T(n ? (u << n) | (u >> (width - n)) : u);                           \
  }                                                                            \
  MSL_INLINE T mulhi(T a, T b) {                                               \
    return T((__int128(a) * __int128(b)) >> (8 * sizeof(T)));                  \
  }                                                                            \
  MSL_INLINE T mul24(T a, T b) { return T(a * b); }                            \
  MSL_INLINE T mad24(T a, T b, T c) { return T(a * b + c); }                   \
  MSL_INLINE T mad(T a, T b, T c) { return T(a * b + c); }                     \
  MSL_INLINE T madhi(T a, T b, T c) { return T(mulhi(a, b) + c); }             \
  MSL_INLINE T addsat(T a, T b) {                                              \
    T sum;                                                                     \
    if (!__builtin_add_overflow(a, b, &sum)) return sum;                       \
    typedef numeric_limits<T> limits;                                          \
    return b < T(0) ? limits::lowest() : limits::max();                        \
  }                                                                            \
  MSL_INLINE T subsat(T a, T b) {                                              \
    T rest;                                                                    \
    if (!__builtin_sub_overflow(a, b, &rest)) return rest;                     \
    if (T(-1) > T(0)) return 0;                                                \
    typedef numeric_limits<T> limits;                                          \
    return b > T(0) ? limits::lowest() : limits::max();                        \
  }                                                                            \
  MSL_INLINE T hadd(T a, T b) { return T((a >> 1) + (b >> 1) + (a & b & 1)); } \
  MSL_INLINE T rhadd(T a, T b) {                                               \
    return T((a >> 1) + (b >> 1) + ((a | b) & 1));                             \
  }                                                                            \
  MSL_INLINE T absdiff(T a, T b) { return a > b ? T(a - b) : T(b - a); }
MSL_INTEGERS(MSL_INTEGER)
#undef MSL_INTEGER
MSL_LIFT2(max)
MSL_LIFT2(min)
MSL_LIFT1(popcount)
MSL_LIFT1(clz)
MSL_LIFT1(ctz)
MSL_LIFT2(mulhi)
MSL_LIFT2(addsat)
MSL_LIFT2(subsat)
MSL_LIFT2(absdiff)
MSL_LIFT2(rotate)
MSL_LIFT1(reverse_bits)

template <class T>
MSL_INLINE enable_if_t<is_integral_v<T>, T> max3(T a, T b, T c) {
  return max(a, max(b, c));
}
template <class T>
MSL_INLINE enable_if_t<is_integral_v<T>, T> min3(T a, T b, T c) {
  return min(a, min(b, c));
}
MSL_INLINE float max3(float a, float b, float c) { return max(a, max(b, c)); }
MSL_INLINE float min3(float a, float b, float c) { return min(a, min(b, c)); }
#define MSL_THREE(T)                                                \
  MSL_INLINE T fmax3(T a, T b, T c) { return fmax(a, fmax(b, c)); } \
  MSL_INLINE T fmin3(T a, T b, T c) { return fmin(a, fmin(b, c)); } \
  MSL_INLINE T fmedian3(T a, T b, T c) {                            \
    return fmax(fmin(a, b), fmin(fmax(a, b), c));                   \
  }                                                                 \
  MSL_INLINE T median3(T a, T b, T c) { return fmedian3(a, b, c); }
MSL_THREE(float)
MSL_THREE(half)
#undef MSL_THREE

MSL_INLINE float clamp(float x, float low, float high) {
  return min(max(x, low), high);
}
MSL_INLINE half clamp(half x, half low, half high) {
  return min(max(x, low), high);
}
MSL_LIFT3(clamp)

MSL_INLINE float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
// The exact product and sum of halves fit a double.
MSL_INLINE half fma(half a, half b, half c) {
  return half(double(a) * double(b) + double(c));
}
template <class T, class = enable_if_t<msl_is_bfloat<T>>>
MSL_INLINE T fma(T a, T b, T c) {
  return bfloat(__builtin_fmaf(float(a), float(b), float(c)));
}
MSL_LIFT3(fma)
MSL_INLINE float mad(float a, float b, float c) { return a * b + c; }
MSL_INLINE half mad(half a, half b, half c) { return a * b + c; }
MSL_LIFT3(mad)

MSL_INLINE float mix(float a, float b, float t) { return a + (b - a) * t; }
MSL_INLINE half mix(half a, half b, half t) { return a + (b - a) * t; }
MSL_LIFT3(mix)
MSL_INLINE float smoothstep(float a, float b, float x) {
  float t = clamp((x - a) / (b - a), 0.0f, 1.0f);
  return t * t * (3.0f - 2.0f * t);
}
MSL_INLINE float ldexp(float x, int n) { return __builtin_ldexpf(x, n); }

MSL_INLINE float frexp(float x, int& exponent) {
  return __builtin_frexpf(x, &exponent);
}
MSL_INLINE int ilogb(float x) { return __builtin_ilogbf(x); }
MSL_INLINE float modf(float x, float& whole) {
  return __builtin_modff(x, &whole);
}
#define MSL_SINCOS                      \
  template <class T>                    \
  MSL_INLINE T sincos(T x, T& cosine) { \
    cosine = cos(x);                    \
    return sin(x);                      \
  }
MSL_SINCOS
namespace fast {
MSL_SINCOS
}
namespace precise {
MSL_SINCOS
}
#undef MSL_SINCOS

template <class T>
MSL_INLINE enable_if_t<is_arithmetic_v<T>, T> select(T a, T b, bool c) {
  return c ? b : a;
}
template <class T, uint N>
MSL_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  vec<T, N> r;
  for (uint i = 0; i < N; ++i) r.data[i] = c.data[i] ? b.data[i] : a.data[i];
  return r;
}
template <class T, uint N, class S, class = enable_if_t<is_arithmetic_v<S>>>
MSL_INLINE vec<T, N> select(vec<T, N> a, S b, vec<bool, N> c) {
  return select(a, vec<T, N>(T(b)), c);
}
template <class T, uint N, class S, class = enable_if_t<is_arithmetic_v<S>>>
MSL_INLINE vec<T, N> select(S a, vec<T, N> b, vec<bool, N> c) {
  return select(vec<T, N>(T(a)), b, c);
}
template <class T, uint N>
MSL_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, bool c) {
  return c ? b : a;
}
#define MSL_TEST(name, expression)                           \
  MSL_INLINE bool name(float x) { return expression; }       \
  MSL_INLINE bool name(half x) { return name(float(x)); }    \
  template <class T, class = enable_if_t<msl_is_widened<T>>> \
  MSL_INLINE bool name(T x) {                                \
    return name(float(x));                                   \
  }                                                          \
  MSL_LIFT1(name)
MSL_TEST(isnan, x != x)
MSL_TEST(isinf, __builtin_fabsf(x) == __builtin_inff())
MSL_TEST(isfinite, __builtin_fabsf(x) < __builtin_inff())
MSL_TEST(isnormal, __builtin_isnormal(x))
MSL_TEST(signbit, __builtin_signbit(x))
#undef MSL_TEST
#define MSL_TEST2(name, expression)                                         \
  MSL_INLINE bool name(float x, float y) { return expression; }             \
  MSL_INLINE bool name(half x, half y) { return name(float(x), float(y)); } \
  template <class T, class = enable_if_t<msl_is_bfloat<T>>>                 \
  MSL_INLINE bool name(T x, T y) {                                          \
    return name(float(x), float(y));                                        \
  }                                                                         \
  template <class T, uint N>                                                \
  MSL_INLINE vec<bool, N> name(vec<T, N> x, vec<T, N> y) {                  \
    vec<bool, N> r;                                                         \
    for (uint i = 0; i < N; ++i) r.data[i] = name(x.data[i], y.data[i]);    \
    return r;                                                               \
  }
MSL_TEST2(isunordered, x != x || y != y)
MSL_TEST2(isordered, x == x && y == y)
#undef MSL_TEST2

template <uint N>
MSL_INLINE bool all(vec<bool, N> v) {
  bool r = true;
  for (uint i = 0; i < N; ++i) r = r && v.data[i];
  return r;
}
template <uint N>
MSL_INLINE bool any(vec<bool, N> v) {
  bool r = false;
  for (uint i = 0; i < N; ++i) r = r || v.data[i];
  return r;
}
MSL_INLINE bool all(bool v) { return v; }
MSL_INLINE bool any(bool v) { return v; }

template <class T, uint N>
MSL_INLINE T dot(vec<T, N> a, vec<T, N> b) {
  T sum = T(a.data[0] * b.data[0]);
  for (uint i = 1; i < N; ++i) sum = T(sum + a.data[i] * b.data[i]);
  return sum;
}
template <class T, uint N>
MSL_INLINE T length_squared(vec<T, N> a) {
  return dot(a, a);
}
template <class T, uint N>
MSL_INLINE T length(vec<T, N> a) {
  return T(sqrt(dot(a, a)));
}
template <class T, uint N>
MSL_INLINE T distance(vec<T, N> a, vec<T, N> b) {
  return length(a - b);
}
template <class T, uint N>
MSL_INLINE vec<T, N> normalize(vec<T, N> a) {
  return a * T(rsqrt(dot(a, a)));
}
template <class T>
MSL_INLINE vec<T, 3> cross(vec<T, 3> a, vec<T, 3> b) {
  return vec<T, 3>(T(a.y * b.z - a.z * b.y), T(a.z * b.x - a.x * b.z),
                   T(a.x * b.y - a.y * b.x));
}

#define MSL_BOTH           \
  using metal::abs;        \
  using metal::acosh;      \
  using metal::asinh;      \
  using metal::atanh;      \
  using metal::ceil;       \
  using metal::clamp;      \
  using metal::copysign;   \
  using metal::cospi;      \
  using metal::fabs;       \
  using metal::fdim;       \
  using metal::floor;      \
  using metal::fma;        \
  using metal::fmax;       \
  using metal::fmax3;      \
  using metal::fmedian3;   \
  using metal::fmin;       \
  using metal::fmin3;      \
  using metal::fract;      \
  using metal::frexp;      \
  using metal::ldexp;      \
  using metal::max;        \
  using metal::mix;        \
  using metal::min;        \
  using metal::modf;       \
  using metal::nextafter;  \
  using metal::rint;       \
  using metal::round;      \
  using metal::saturate;   \
  using metal::sign;       \
  using metal::sinpi;      \
  using metal::smoothstep; \
  using metal::step;       \
  using metal::tanpi;      \
  using metal::trunc;
namespace fast {
MSL_BOTH
}
namespace precise {
MSL_BOTH
}
#undef MSL_BOTH
}  // namespace metal
