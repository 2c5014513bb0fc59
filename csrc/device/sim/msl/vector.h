// csrc/device/sim/msl/vector.h: scalar types, vectors with swizzles, bfloat.
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef __INTPTR_TYPE__ intptr_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
typedef _Float16 half;

// Without lines of its own: errors name the kernel's line.
#define MSL_INLINE inline __attribute__((always_inline, nodebug))

template <class T>
inline constexpr bool msl_is_float =
    __is_same(T, float) || __is_same(T, double);

// Rounds to nearest even at each operation; converts to float by itself and
// from integers, from floats only when asked, as in MSL.  With an integer it
// makes a bfloat, with a float a float.
struct bfloat {
  ushort bits;

  bfloat() = default;
  MSL_INLINE explicit constexpr bfloat(float value) : bits(round(value)) {}
  template <class T>
  MSL_INLINE explicit(!__is_integral(T)) constexpr bfloat(T value)
      : bits(round(float(value))) {}
  MSL_INLINE constexpr operator float() const {
    return __builtin_bit_cast(float, uint(bits) << 16);
  }

  MSL_INLINE static constexpr ushort round(float value) {
    uint x = __builtin_bit_cast(uint, value);
    if ((x & 0x7fffffffu) > 0x7f800000u) return ushort((x >> 16) | 0x40u);
    return ushort((x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
  }

#define MSL_BFLOAT(op)                                                 \
  friend MSL_INLINE constexpr bfloat operator op(bfloat a, bfloat b) { \
    return bfloat(float(a) op float(b));                               \
  }                                                                    \
  template <class T>                                                   \
    requires(__is_integral(T))                                         \
  friend MSL_INLINE constexpr bfloat operator op(bfloat a, T b) {      \
    return a op bfloat(b);                                             \
  }                                                                    \
  template <class T>                                                   \
    requires(__is_integral(T))                                         \
  friend MSL_INLINE constexpr bfloat operator op(T a, bfloat b) {      \
    return bfloat(a) op b;                                             \
  }                                                                    \
  template <class T>                                                   \
    requires(msl_is_float<T>)                                          \
  friend MSL_INLINE constexpr T operator op(bfloat a, T b) {           \
    return float(a) op b;                                              \
  }                                                                    \
  template <class T>                                                   \
    requires(msl_is_float<T>)                                          \
  friend MSL_INLINE constexpr T operator op(T a, bfloat b) {           \
    return a op float(b);                                              \
  }                                                                    \
  MSL_INLINE bfloat& operator op## = (bfloat b) { return *this = *this op b; }
  MSL_BFLOAT(+)
  MSL_BFLOAT(-)
  MSL_BFLOAT(*)
  MSL_BFLOAT(/)
#undef MSL_BFLOAT
#define MSL_BFLOAT(op)                                               \
  friend MSL_INLINE constexpr bool operator op(bfloat a, bfloat b) { \
    return float(a) op float(b);                                     \
  }                                                                  \
  template <class T>                                                 \
    requires(__is_integral(T) || msl_is_float<T>)                    \
  friend MSL_INLINE constexpr bool operator op(bfloat a, T b) {      \
    return float(a) op float(b);                                     \
  }                                                                  \
  template <class T>                                                 \
    requires(__is_integral(T) || msl_is_float<T>)                    \
  friend MSL_INLINE constexpr bool operator op(T a, bfloat b) {      \
    return float(a) op float(b);                                     \
  }
  MSL_BFLOAT(<)
  MSL_BFLOAT(>)
  MSL_BFLOAT(<=)
  MSL_BFLOAT(>=)
  MSL_BFLOAT(==)
  MSL_BFLOAT(!=)
#undef MSL_BFLOAT
  friend MSL_INLINE constexpr bfloat operator-(bfloat a) {
    return bfloat(-float(a));
  }
};
typedef bfloat bfloat16_t;

namespace metal {
using ::bfloat;
using ::half;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::ulong;
using ::ushort;

}  // namespace metal
#include "traits.h"

namespace metal {
template <class T, uint N>
struct vec;

constexpr uint msl_largest(uint a) { return a; }
template <class... U>
constexpr uint msl_largest(uint a, uint b, U... rest) {
  return msl_largest(a > b ? a : b, rest...);
}

// N of the components of a vector; lives in a union with them.
template <class V, class T, uint... I>
struct msl_swizzle {
  T data[msl_largest(I...) + 1];
  MSL_INLINE operator V() const { return V(data[I]...); }
  MSL_INLINE msl_swizzle& operator=(const V& v) {
    T copy[sizeof...(I)];
    for (uint i = 0; i < sizeof...(I); ++i) copy[i] = v[i];
    uint i = 0;
    ((data[I] = copy[i++]), ...);
    return *this;
  }
  MSL_INLINE msl_swizzle& operator=(const msl_swizzle& other) {
    return *this = V(other);
  }
  MSL_INLINE msl_swizzle& operator+=(const V& v) {
    return *this = V(*this) + v;
  }
  MSL_INLINE msl_swizzle& operator-=(const V& v) {
    return *this = V(*this) - v;
  }
  MSL_INLINE msl_swizzle& operator*=(const V& v) {
    return *this = V(*this) * v;
  }
  MSL_INLINE msl_swizzle& operator/=(const V& v) {
    return *this = V(*this) / v;
  }
};

// A pair or triple of two-component picks; the names come from the macros.
#define MSL_2(T, a, b, A, B) msl_swizzle<vec<T, 2>, T, A, B> a##b;
#define MSL_3(T, a, b, c, A, B, C) msl_swizzle<vec<T, 3>, T, A, B, C> a##b##c;
#define MSL_4(T, a, b, c, d, A, B, C, D) \
  msl_swizzle<vec<T, 4>, T, A, B, C, D> a##b##c##d;

#define MSL_PAIRS2(T, x, y) \
  MSL_2(T, x, x, 0, 0)      \
  MSL_2(T, x, y, 0, 1) MSL_2(T, y, x, 1, 0) MSL_2(T, y, y, 1, 1)
#define MSL_PAIRS3(T, x, y, z) \
  MSL_PAIRS2(T, x, y)          \
  MSL_2(T, x, z, 0, 2)         \
  MSL_2(T, y, z, 1, 2)         \
  MSL_2(T, z, x, 2, 0) MSL_2(T, z, y, 2, 1) MSL_2(T, z, z, 2, 2)
#define MSL_PAIRS4(T, x, y, z, w) \
  MSL_PAIRS3(T, x, y, z)          \
  MSL_2(T, x, w, 0, 3)            \
  MSL_2(T, y, w, 1, 3)            \
  MSL_2(T, z, w, 2, 3)            \
  MSL_2(T, w, x, 3, 0)            \
  MSL_2(T, w, y, 3, 1) MSL_2(T, w, z, 3, 2) MSL_2(T, w, w, 3, 3)
#define MSL_TRIPLE_OF(T, a, A, x, y, z, w) \
  MSL_3(T, a, x, x, A, 0, 0)               \
  MSL_3(T, a, x, y, A, 0, 1)               \
  MSL_3(T, a, x, z, A, 0, 2)               \
  MSL_3(T, a, x, w, A, 0, 3)               \
  MSL_3(T, a, y, x, A, 1, 0)               \
  MSL_3(T, a, y, y, A, 1, 1)               \
  MSL_3(T, a, y, z, A, 1, 2)               \
  MSL_3(T, a, y, w, A, 1, 3)               \
  MSL_3(T, a, z, x, A, 2, 0)               \
  MSL_3(T, a, z, y, A, 2, 1)               \
  MSL_3(T, a, z, z, A, 2, 2)               \
  MSL_3(T, a, z, w, A, 2, 3)               \
  MSL_3(T, a, w, x, A, 3, 0)               \
  MSL_3(T, a, w, y, A, 3, 1)               \
  MSL_3(T, a, w, z, A, 3, 2) MSL_3(T, a, w, w, A, 3, 3)
#define MSL_TRIPLES3(T, x, y, z) \
  MSL_3(T, x, y, z, 0, 1, 2)     \
  MSL_3(T, x, z, y, 0, 2, 1)     \
  MSL_3(T, y, x, z, 1, 0, 2)     \
  MSL_3(T, y, z, x, 1, 2, 0)     \
  MSL_3(T, z, x, y, 2, 0, 1)     \
  MSL_3(T, z, y, x, 2, 1, 0)     \
  MSL_3(T, x, x, x, 0, 0, 0)     \
  MSL_3(T, y, y, y, 1, 1, 1) MSL_3(T, z, z, z, 2, 2, 2)
#define MSL_TRIPLES4(T, x, y, z, w)  \
  MSL_TRIPLE_OF(T, x, 0, x, y, z, w) \
  MSL_TRIPLE_OF(T, y, 1, x, y, z, w) \
  MSL_TRIPLE_OF(T, z, 2, x, y, z, w) MSL_TRIPLE_OF(T, w, 3, x, y, z, w)
// The permutations and the broadcasts.
#define MSL_QUADS(T, x, y, z, w)   \
  MSL_4(T, x, y, z, w, 0, 1, 2, 3) \
  MSL_4(T, x, y, w, z, 0, 1, 3, 2) \
  MSL_4(T, x, z, y, w, 0, 2, 1, 3) \
  MSL_4(T, x, z, w, y, 0, 2, 3, 1) \
  MSL_4(T, x, w, y, z, 0, 3, 1, 2) \
  MSL_4(T, x, w, z, y, 0, 3, 2, 1) \
  MSL_4(T, y, x, z, w, 1, 0, 2, 3) \
  MSL_4(T, y, x, w, z, 1, 0, 3, 2) \
  MSL_4(T, y, z, x, w, 1, 2, 0, 3) \
  MSL_4(T, y, z, w, x, 1, 2, 3, 0) \
  MSL_4(T, y, w, x, z, 1, 3, 0, 2) \
  MSL_4(T, y, w, z, x, 1, 3, 2, 0) \
  MSL_4(T, z, x, y, w, 2, 0, 1, 3) \
  MSL_4(T, z, x, w, y, 2, 0, 3, 1) \
  MSL_4(T, z, y, x, w, 2, 1, 0, 3) \
  MSL_4(T, z, y, w, x, 2, 1, 3, 0) \
  MSL_4(T, z, w, x, y, 2, 3, 0, 1) \
  MSL_4(T, z, w, y, x, 2, 3, 1, 0) \
  MSL_4(T, w, x, y, z, 3, 0, 1, 2) \
  MSL_4(T, w, x, z, y, 3, 0, 2, 1) \
  MSL_4(T, w, y, x, z, 3, 1, 0, 2) \
  MSL_4(T, w, y, z, x, 3, 1, 2, 0) \
  MSL_4(T, w, z, x, y, 3, 2, 0, 1) \
  MSL_4(T, w, z, y, x, 3, 2, 1, 0) \
  MSL_4(T, x, x, x, x, 0, 0, 0, 0) \
  MSL_4(T, y, y, y, y, 1, 1, 1, 1) \
  MSL_4(T, z, z, z, z, 2, 2, 2, 2) \
  MSL_4(T, w, w, w, w, 3, 3, 3, 3) \
  MSL_4(T, x, x, y, y, 0, 0, 1, 1) \
  MSL_4(T, z, z, w, w, 2, 2, 3, 3) \
  MSL_4(T, x, x, z, z, 0, 0, 2, 2) \
  MSL_4(T, y, y, w, w, 1, 1, 3, 3) \
  MSL_4(T, x, y, x, y, 0, 1, 0, 1) MSL_4(T, z, w, z, w, 2, 3, 2, 3)

#define MSL_MEMBERS2 \
  T data[2];         \
  struct {           \
    T x, y;          \
  };                 \
  struct {           \
    T r, g;          \
  };                 \
  MSL_PAIRS2(T, x, y)
#define MSL_MEMBERS3     \
  T data[4];             \
  struct {               \
    T x, y, z;           \
  };                     \
  struct {               \
    T r, g, b;           \
  };                     \
  MSL_PAIRS3(T, x, y, z) \
  MSL_TRIPLES3(T, x, y, z) MSL_PAIRS3(T, r, g, b) MSL_TRIPLES3(T, r, g, b)
#define MSL_MEMBERS4          \
  T data[4];                  \
  struct {                    \
    T x, y, z, w;             \
  };                          \
  struct {                    \
    T r, g, b, a;             \
  };                          \
  MSL_PAIRS4(T, x, y, z, w)   \
  MSL_TRIPLES4(T, x, y, z, w) \
  MSL_QUADS(T, x, y, z, w)    \
  MSL_PAIRS4(T, r, g, b, a) MSL_TRIPLES4(T, r, g, b, a) MSL_QUADS(T, r, g, b, a)

template <class T>
struct msl_component_count {
  static constexpr uint value = 1;
};
template <class T, uint N>
struct msl_component_count<vec<T, N>> {
  static constexpr uint value = N;
};
template <class V, class T, uint... I>
struct msl_component_count<msl_swizzle<V, T, I...>> {
  static constexpr uint value = sizeof...(I);
};

// What moves a whole vector of two or four in one access: vectors too, since
// the optimizer would split an integer into the elements that it was made from.
template <uint BYTES>
struct msl_mover;
template <>
struct msl_mover<2> {
  typedef ushort type __attribute__((may_alias));
};
template <>
struct msl_mover<4> {
  typedef ushort type __attribute__((vector_size(4), may_alias));
};
template <>
struct msl_mover<8> {
  typedef uint type __attribute__((vector_size(8), may_alias));
};
template <>
struct msl_mover<16> {
  typedef uint type __attribute__((vector_size(16), may_alias));
};
template <>
struct msl_mover<32> {
  typedef uint type __attribute__((vector_size(32), may_alias));
};

// As Apple's headers have it.
template <class T>
struct vec_elements : integral_constant<uint, msl_component_count<T>::value> {};

template <class T>
struct msl_is_vector : bool_constant<(msl_component_count<T>::value > 1)> {};

#define MSL_OPERATOR(op)                                                    \
  friend MSL_INLINE vec operator op(const vec& a, const vec& b) {           \
    vec r;                                                                  \
    for (uint i = 0; i < count; ++i) r.data[i] = T(a.data[i] op b.data[i]); \
    return r;                                                               \
  }                                                                         \
  MSL_INLINE vec& operator op## = (const vec& b) {                          \
    for (uint i = 0; i < count; ++i) data[i] = T(data[i] op b.data[i]);     \
    return *this;                                                           \
  }
#define MSL_COMPARE(op)                                                        \
  friend MSL_INLINE vec<bool, count> operator op(const vec& a, const vec& b) { \
    vec<bool, count> r;                                                        \
    for (uint i = 0; i < count; ++i) r.data[i] = a.data[i] op b.data[i];       \
    return r;                                                                  \
  }

#define MSL_VECTOR(N, MEMBERS, ALIGN)                                    \
  template <class T>                                                     \
  struct alignas(ALIGN * sizeof(T)) vec<T, N> {                          \
    static constexpr uint count = N;                                     \
    typedef T value_type;                                                \
    union {                                                              \
      MEMBERS                                                            \
    };                                                                   \
    vec() = default;                                                     \
    MSL_INLINE constexpr vec(const vec& v) {                             \
      if (__builtin_is_constant_evaluated()) {                           \
        for (uint i = 0; i < N; ++i) data[i] = v.data[i];                \
      } else {                                                           \
        copy(v.data);                                                    \
      }                                                                  \
    }                                                                    \
    MSL_INLINE constexpr vec(T s) : data{} {                             \
      for (uint i = 0; i < N; ++i) data[i] = s;                          \
    }                                                                    \
    template <class S, class = enable_if_t<is_arithmetic_v<S>>>          \
    MSL_INLINE constexpr vec(S s) : vec(T(s)) {}                         \
    template <class S>                                                   \
    MSL_INLINE constexpr explicit vec(const vec<S, N>& v) : data{} {     \
      for (uint i = 0; i < N; ++i) data[i] = T(v.data[i]);               \
    }                                                                    \
    template <class A, class B, class... C>                              \
    MSL_INLINE constexpr vec(A a, B b, C... c) : data{} {                \
      static_assert(msl_component_count<A>::value +                      \
                            msl_component_count<B>::value +              \
                            (msl_component_count<C>::value + ... + 0) <= \
                        N, /* in braces the others are zero */           \
                    "vector constructor: too many components");          \
      uint at = 0;                                                       \
      append(at, a);                                                     \
      append(at, b);                                                     \
      (append(at, c), ...);                                              \
    }                                                                    \
    MSL_INLINE vec& operator=(const vec& v) {                            \
      copy(v.data);                                                      \
      return *this;                                                      \
    }                                                                    \
    MSL_INLINE T& operator[](long i) { return data[i]; }                 \
    MSL_INLINE constexpr T operator[](long i) const { return data[i]; }  \
    MSL_OPERATORS                                                        \
   private:                                                              \
    MSL_INLINE constexpr void copy(const T* from) {                      \
      if constexpr (N != 3) {                                            \
        if (!__builtin_is_constant_evaluated()) {                        \
          typedef typename msl_mover<N * sizeof(T)>::type whole;         \
          *(whole*)data = *(const whole*)from;                           \
          return;                                                        \
        }                                                                \
      }                                                                  \
      for (uint i = 0; i < N; ++i) data[i] = from[i];                    \
    }                                                                    \
    template <class S>                                                   \
    MSL_INLINE constexpr void append(uint& at, const S& s) {             \
      data[at++] = T(s);                                                 \
    }                                                                    \
    template <class S, uint M>                                           \
    MSL_INLINE constexpr void append(uint& at, const vec<S, M>& v) {     \
      for (uint i = 0; i < M; ++i) data[at++] = T(v.data[i]);            \
    }                                                                    \
    template <class V, class S, uint... I>                               \
    MSL_INLINE constexpr void append(uint& at,                           \
                                     const msl_swizzle<V, S, I...>& v) { \
      ((data[at++] = T(v.data[I])), ...);                                \
    }                                                                    \
  };

#define MSL_OPERATORS                                               \
  MSL_OPERATOR(+)                                                   \
  MSL_OPERATOR(-)                                                   \
  MSL_OPERATOR(*)                                                   \
  MSL_OPERATOR(/)                                                   \
  MSL_OPERATOR(%)                                                   \
  MSL_OPERATOR(&)                                                   \
  MSL_OPERATOR(|)                                                   \
  MSL_OPERATOR(^) MSL_OPERATOR(<<) MSL_OPERATOR(>>) MSL_COMPARE(==) \
      MSL_COMPARE(!=) MSL_COMPARE(<) MSL_COMPARE(>) MSL_COMPARE(<=) \
          MSL_COMPARE(>=) MSL_COMPARE(&&)                           \
              MSL_COMPARE(||) friend MSL_INLINE vec                 \
              operator-(const vec& a) {                             \
    vec r;                                                          \
    for (uint i = 0; i < count; ++i) r.data[i] = T(-a.data[i]);     \
    return r;                                                       \
  }                                                                 \
  friend MSL_INLINE vec operator~(const vec& a) {                   \
    vec r;                                                          \
    for (uint i = 0; i < count; ++i) r.data[i] = T(~a.data[i]);     \
    return r;                                                       \
  }                                                                 \
  friend MSL_INLINE vec<bool, count> operator!(const vec& a) {      \
    vec<bool, count> r;                                             \
    for (uint i = 0; i < count; ++i) r.data[i] = !a.data[i];        \
    return r;                                                       \
  }

// Of other sizes, which public kernels use as arrays of registers.
template <class T, uint N>
struct vec {
  static constexpr uint count = N;
  typedef T value_type;
  T data[N];
  vec() = default;
  MSL_INLINE constexpr vec(T s) : data{} {
    for (uint i = 0; i < N; ++i) data[i] = s;
  }
  template <class S>
  MSL_INLINE constexpr explicit vec(const vec<S, N>& v) : data{} {
    for (uint i = 0; i < N; ++i) data[i] = T(v.data[i]);
  }
  MSL_INLINE constexpr T& operator[](long i) { return data[i]; }
  MSL_INLINE constexpr T operator[](long i) const { return data[i]; }
  MSL_OPERATORS
};

MSL_VECTOR(2, MSL_MEMBERS2, 2)
MSL_VECTOR(3, MSL_MEMBERS3, 4)
MSL_VECTOR(4, MSL_MEMBERS4, 4)

template <class T, uint N>
struct msl_packed;
template <class T>
struct msl_packed<T, 2> {
  union {
    T data[2];
    struct {
      T x, y;
    };
    struct {
      T r, g;
    };
  };
};
template <class T>
struct msl_packed<T, 3> {
  union {
    T data[3];
    struct {
      T x, y, z;
    };
    struct {
      T r, g, b;
    };
  };
};
template <class T>
struct msl_packed<T, 4> {
  union {
    T data[4];
    struct {
      T x, y, z, w;
    };
    struct {
      T r, g, b, a;
    };
  };
};

// Elements side by side, with the alignment of one.
template <class T, uint N>
struct packed_vec : msl_packed<T, N> {
  using msl_packed<T, N>::data;
  packed_vec() = default;
  MSL_INLINE packed_vec(const vec<T, N>& v) {
    for (uint i = 0; i < N; ++i) data[i] = v[i];
  }
  template <class... A, class = enable_if_t<(sizeof...(A) == N)>>
  MSL_INLINE packed_vec(A... a) {
    T all[] = {T(a)...};
    for (uint i = 0; i < N; ++i) data[i] = all[i];
  }
  MSL_INLINE operator vec<T, N>() const {
    vec<T, N> v;
    for (uint i = 0; i < N; ++i) v.data[i] = data[i];
    return v;
  }
  template <class S>
  MSL_INLINE explicit operator vec<S, N>() const {
    return vec<S, N>(vec<T, N>(*this));
  }
  MSL_INLINE T& operator[](long i) { return data[i]; }
  MSL_INLINE T operator[](long i) const { return data[i]; }
};

#define MSL_NAMES(T)             \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;
#define MSL_PACKED(T)                            \
  typedef metal::packed_vec<T, 2> packed_##T##2; \
  typedef metal::packed_vec<T, 3> packed_##T##3; \
  typedef metal::packed_vec<T, 4> packed_##T##4;
#define MSL_USING(T) \
  using ::T##2;      \
  using ::T##3;      \
  using ::T##4;
#define MSL_EACH(F) \
  F(bool)           \
  F(char)           \
  F(uchar)          \
  F(short) F(ushort) F(int) F(uint) F(long) F(ulong) F(half) F(float) F(bfloat)
}  // namespace metal

MSL_EACH(MSL_NAMES)
MSL_EACH(MSL_PACKED)

namespace metal {
MSL_EACH(MSL_USING)

}  // namespace metal

template <class To, class From>
MSL_INLINE To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
#ifdef MSL_STRICT
  // Else the optimizer would read each half of a word by itself.
  if constexpr (metal::is_integral_v<From>) asm("" : "+r"(from));
#endif
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
template <class To, class V, class T, uint... I>
MSL_INLINE To as_type(metal::msl_swizzle<V, T, I...> from) {
  return as_type<To>(V(from));
}
