// csrc/device/sim/msl/accept_vector.h: Metal's vectors for the type checker;
// see accept.h.
//
// Metal's are clang's ext_vector_type, with conversions, constructors and bool
// vectors of Apple's own that this clang lacks.  So they are classes here.  A
// component is a property: read and written, but no object that a reference or
// a pointer could name.
#pragma once

#include "accept_types.h"

namespace msl {
using namespace metal;

template <class T>
constexpr __constant bool msl_is_scalar =
    __is_arithmetic(T) || __is_enum(T) || MSL_IS_BFLOAT(T);
// Whether it becomes a vector of T silently.
template <class T, class S>
constexpr __constant bool msl_splats =
    (__is_arithmetic(S) || __is_enum(S)) && __is_convertible_to(S, T);
// Whether a scalar S takes part in arithmetic with vectors of T: it becomes a
// T, but no number with a fraction becomes an integer, and no float a bfloat.
template <class T, class S>
constexpr __constant bool msl_joins =
    __is_same(T, S) ||
    !__is_same(T, bool) &&
        (__is_integral(S) || __is_floating_point(S) && __is_floating_point(T) ||
         MSL_IS_BFLOAT(S) && __is_same(T, float));

// The vector that an operator on A and B gives, if it has one.
template <class A, class B>
struct msl_joined {
  typedef msl_element<A> a;
  typedef msl_element<B> b;
  typedef conditional_t<(a::count > 1), typename a::type, typename b::type> T;
  static constexpr __constant int count = a::count > 1 ? a::count : b::count;
  static constexpr __constant bool exists =
      a::count > 1 && b::count > 1
          ? a::count == b::count &&
                __is_same(typename a::type, typename b::type)
          : count > 1 && msl_joins<T, conditional_t<(a::count > 1), B, A>>;
};
template <class A, class B>
using msl_any =
    enable_if<msl_joined<A, B>::exists,
              vec<typename msl_joined<A, B>::T, msl_joined<A, B>::count>>;
template <class A, class B>
using msl_arithmetic =
    enable_if<msl_joined<A, B>::exists &&
                  !__is_same(typename msl_joined<A, B>::T, bool),
              vec<typename msl_joined<A, B>::T, msl_joined<A, B>::count>>;
template <class A, class B>
using msl_bitwise =
    enable_if<msl_joined<A, B>::exists&& __is_integral(
                  typename msl_joined<A, B>::T),
              vec<typename msl_joined<A, B>::T, msl_joined<A, B>::count>>;
template <class A, class B>
using msl_compared =
    enable_if<msl_joined<A, B>::exists, vec<bool, msl_joined<A, B>::count>>;
template <class A, class B>
using msl_logical = enable_if<msl_joined<A, B>::exists&& __is_same(
                                  typename msl_joined<A, B>::T, bool),
                              vec<bool, msl_joined<A, B>::count>>;

template <class T, class... I>
constexpr bool msl_distinct(I... i) {
  const int all[] = {i...};
  for (int a = 0; a < int(sizeof...(I)); ++a) {
    for (int b = 0; b < a; ++b) {
      if (all[a] == all[b]) return false;
    }
  }
  return true;
}

// How many elements of T a constructor's argument brings; far too many if it is
// of another type.
template <class T, class A>
constexpr __constant int msl_brings =
    msl_element<A>::count == 0
        ? (__is_convertible_to(A, T) ? 1 : 100)
        : (__is_same(typename msl_element<A>::type, T) ? msl_element<A>::count
                                                       : 100);
template <int N, class T, class... A>
constexpr __constant bool msl_composes =
    (msl_brings<T, A> + ...) == N && ((msl_element<A>::count > 1) || ...);

template <class T, class A>
MSL_INLINE constexpr T msl_at(A a, int) {
  return T(a);
}
template <class T, class U, int N>
MSL_INLINE constexpr T msl_at(vec<U, N> a, int i) {
  return T(a.msl_v[i]);
}
template <class T, class U, int N>
MSL_INLINE constexpr T msl_at(packed_vec<U, N> a, int i) {
  return T(a.msl_v[i]);
}
// Element `index` of all arguments in a row.
template <int index, class T, class A, class... More>
MSL_INLINE constexpr T msl_pick(A a, More... more) {
  if constexpr (index < msl_brings<T, A>) {
    return msl_at<T>(a, index);
  } else {
    return msl_pick<index - msl_brings<T, A>, T>(more...);
  }
}

#define MSL_PICK2 msl_pick<0, T>(a, b, more...), msl_pick<1, T>(a, b, more...)
#define MSL_PICK3 MSL_PICK2, msl_pick<2, T>(a, b, more...)
#define MSL_PICK4 MSL_PICK3, msl_pick<3, T>(a, b, more...)
#define MSL_CAST2(o) T(o.msl_v[0]), T(o.msl_v[1])
#define MSL_CAST3(o) MSL_CAST2(o), T(o.msl_v[2])
#define MSL_CAST4(o) MSL_CAST3(o), T(o.msl_v[3])
#define MSL_FILL2(x) x, x
#define MSL_FILL3(x) x, x, x
#define MSL_FILL4(x) x, x, x, x
#define MSL_LIST2 a, b
#define MSL_LIST3 a, b, c
#define MSL_LIST4 a, b, c, d
#define MSL_SCALARS2 T a, T b
#define MSL_SCALARS3 T a, T b, T c
#define MSL_SCALARS4 T a, T b, T c, T d

#define MSL_CONSTRUCTORS(name, N, space)                                \
  constexpr name(T a) space : msl_v{MSL_FILL##N(a)} {}                  \
  template <class U,                                                    \
            class = enable_if_t<!__is_same(T, U) && msl_splats<T, U>>>  \
  constexpr name(U a) space : msl_v{MSL_FILL##N(T(a))} {}               \
  template <class U,                                                    \
            class = enable_if_t<msl_is_scalar<U> && !__is_same(T, U) && \
                                !msl_splats<T, U>>,                     \
            class = void>                                               \
  constexpr explicit name(U a) space : msl_v{MSL_FILL##N(T(a))} {}      \
  constexpr name(MSL_SCALARS##N) space : msl_v{MSL_LIST##N} {}          \
  template <class A, class B, class... More,                            \
            class = enable_if_t<msl_composes<N, T, A, B, More...>>>     \
  constexpr name(A a, B b, More... more) space : msl_v{MSL_PICK##N} {}  \
  template <class U, class = enable_if_t<!__is_same(T, U)>>             \
  constexpr explicit name(vec<U, N> o) space : msl_v{MSL_CAST##N(o)} {} \
  template <class U, class = enable_if_t<!__is_same(T, U)>>             \
  constexpr explicit name(packed_vec<U, N> o) space : msl_v{MSL_CAST##N(o)} {}

#define MSL_BODY(N, room)                                      \
  vec() = default;                                             \
  MSL_COPIES(vec)                                              \
  MSL_CONSTRUCTORS(vec, N, )                                   \
  MSL_CONSTRUCTORS(vec, N, __constant)                         \
  constexpr vec(packed_vec<T, N> o) : msl_v{MSL_CAST##N(o)} {} \
  alignas(room * sizeof(T)) T msl_v[room];
#define MSL_PACKED_BODY(N)                                     \
  packed_vec() = default;                                      \
  MSL_COPIES(packed_vec)                                       \
  MSL_CONSTRUCTORS(packed_vec, N, )                            \
  MSL_CONSTRUCTORS(packed_vec, N, __constant)                  \
  constexpr packed_vec(vec<T, N> o) : msl_v{MSL_CAST##N(o)} {} \
  T msl_v[N];

template <class T>
struct vec<T, 2>{MSL_BODY(2, 2)
#define MSL_N 2
#include "accept_components.h"
};
template <class T>
struct vec<T, 3>{MSL_BODY(3, 4)
#define MSL_N 3
#include "accept_components.h"
};
template <class T>
struct vec<T, 4>{MSL_BODY(4, 4)
#define MSL_N 4
#include "accept_components.h"
};
template <class T>
struct packed_vec<T, 2>{MSL_PACKED_BODY(2)
#define MSL_N 2
#include "accept_components.h"
};
template <class T>
struct packed_vec<T, 3>{MSL_PACKED_BODY(3)
#define MSL_N 3
#include "accept_components.h"
};
template <class T>
struct packed_vec<T, 4>{MSL_PACKED_BODY(4)
#define MSL_N 4
#include "accept_components.h"
};

// The storage of a simdgroup's matrix of 64 elements, of which a thread holds
// two.
MSL_INLINE constexpr int msl_held(int count) { return count == 64 ? 2 : count; }
template <class T>
struct vec<T, 64> {
  vec() = default;
  MSL_INLINE constexpr __generic T& operator[](int i) & { return msl_v[i]; }
  MSL_INLINE constexpr T operator[](int i) const& { return msl_v[i]; }
  MSL_INLINE constexpr T operator[](int i) const&& { return msl_v[i]; }
  T msl_v[2];
};

#define MSL_OPERATOR(kind, op)                                           \
  template <class A, class B, class R = typename msl_##kind<A, B>::type> \
  MSL_INLINE constexpr R operator op(A a, B b) {                         \
    typedef typename msl_joined<A, B>::T T;                              \
    R r{};                                                               \
    for (int i = 0; i < msl_held(msl_joined<A, B>::count); ++i) {        \
      r.msl_v[i] = msl_at<T>(a, i) op msl_at<T>(b, i);                   \
    }                                                                    \
    return r;                                                            \
  }
MSL_OPERATOR(arithmetic, +)
MSL_OPERATOR(arithmetic, -)
MSL_OPERATOR(arithmetic, *)
MSL_OPERATOR(arithmetic, /)
MSL_OPERATOR(bitwise, %)
MSL_OPERATOR(bitwise, &)
MSL_OPERATOR(bitwise, |)
MSL_OPERATOR(bitwise, ^)
MSL_OPERATOR(bitwise, <<)
MSL_OPERATOR(bitwise, >>)
MSL_OPERATOR(compared, ==)
MSL_OPERATOR(compared, !=)
MSL_OPERATOR(compared, <)
MSL_OPERATOR(compared, >)
MSL_OPERATOR(compared, <=)
MSL_OPERATOR(compared, >=)
MSL_OPERATOR(logical, &&)
MSL_OPERATOR(logical, ||)
#undef MSL_OPERATOR
#define MSL_OPERATOR(kind, op)                                  \
  template <class A, class R = typename msl_##kind<A, A>::type> \
  MSL_INLINE constexpr R operator op(A a) {                     \
    R r{};                                                      \
    for (int i = 0; i < msl_held(msl_element<A>::count); ++i) { \
      r.msl_v[i] = op a.msl_v[i];                               \
    }                                                           \
    return r;                                                   \
  }
MSL_OPERATOR(arithmetic, -)
MSL_OPERATOR(arithmetic, +)
MSL_OPERATOR(bitwise, ~)
MSL_OPERATOR(compared, !)
#undef MSL_OPERATOR

}  // namespace msl

// Global names, as Metal's are.
#define MSL_NAMES(T)                                     \
  typedef metal::vec<T, 2> T##2;                         \
  typedef metal::vec<T, 3> T##3;                         \
  typedef metal::vec<T, 4> T##4;                         \
  typedef metal::packed_vec<T, 2> packed_##T##2;         \
  typedef metal::packed_vec<T, 3> packed_##T##3;         \
  typedef metal::packed_vec<T, 4> packed_##T##4;         \
  typedef T##2 vector_##T##2;                            \
  typedef T##3 vector_##T##3;                            \
  typedef T##4 vector_##T##4;                            \
  typedef T##2 simd_##T##2;                              \
  typedef T##3 simd_##T##3;                              \
  typedef T##4 simd_##T##4;                              \
  /* Made once, in the precompiled header. */            \
  static_assert(sizeof(T##2) == 2 * sizeof(T));          \
  static_assert(sizeof(T##3) == 4 * sizeof(T));          \
  static_assert(sizeof(T##4) == 4 * sizeof(T));          \
  static_assert(sizeof(packed_##T##2) == 2 * sizeof(T)); \
  static_assert(sizeof(packed_##T##3) == 3 * sizeof(T)); \
  static_assert(sizeof(packed_##T##4) == 4 * sizeof(T)); \
  namespace metal {                                      \
  using ::T##2;                                          \
  using ::T##3;                                          \
  using ::T##4;                                          \
  using ::packed_##T##2;                                 \
  using ::packed_##T##3;                                 \
  using ::packed_##T##4;                                 \
  }
MSL_NAMES(bool)
MSL_EACH_INTEGER(MSL_NAMES)
MSL_EACH_FLOAT(MSL_NAMES)
#undef MSL_NAMES
