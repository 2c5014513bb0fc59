// csrc/device/sim/msl/matrices.h: matrices that one thread holds, by columns.
#pragma once

namespace metal {
template <class T, int C, int R>
struct matrix {
  typedef vec<T, R> column;
  column columns[C];

  matrix() = default;
  // Of the diagonal.
  MSL_INLINE explicit constexpr matrix(T diagonal) : columns{} {
    for (int i = 0; i < (C < R ? C : R); ++i) columns[i].data[i] = diagonal;
  }
  template <class... A>
    requires(sizeof...(A) == C - 1)
  MSL_INLINE constexpr matrix(column first, A... more)
      : columns{first, column(more)...} {}
  template <class... A>
    requires(sizeof...(A) == C * R && (is_arithmetic_v<A> && ...))
  MSL_INLINE constexpr matrix(A... a) : columns{} {
    T all[] = {T(a)...};
    for (int i = 0; i < C * R; ++i) columns[i / R].data[i % R] = all[i];
  }
  template <class S>
  MSL_INLINE explicit constexpr matrix(const matrix<S, C, R>& m) : columns{} {
    for (int i = 0; i < C; ++i) columns[i] = column(m.columns[i]);
  }

  MSL_INLINE constexpr column& operator[](long i) { return columns[i]; }
  MSL_INLINE constexpr const column& operator[](long i) const {
    return columns[i];
  }

#define MSL_MATRIX(op)                                                     \
  friend MSL_INLINE matrix operator op(const matrix& a, const matrix& b) { \
    matrix r;                                                              \
    for (int i = 0; i < C; ++i) r[i] = a[i] op b[i];                       \
    return r;                                                              \
  }                                                                        \
  MSL_INLINE matrix& operator op## = (const matrix& b) {                   \
    return *this = *this op b;                                             \
  }
  MSL_MATRIX(+)
  MSL_MATRIX(-)
#undef MSL_MATRIX
  friend MSL_INLINE matrix operator*(const matrix& a, T s) {
    matrix r;
    for (int i = 0; i < C; ++i) r[i] = a[i] * s;
    return r;
  }
  friend MSL_INLINE matrix operator*(T s, const matrix& a) { return a * s; }
  MSL_INLINE matrix& operator*=(T s) { return *this = *this * s; }
  friend MSL_INLINE column operator*(const matrix& a, const vec<T, C>& v) {
    column r = a[0] * v[0];
    for (int i = 1; i < C; ++i) r += a[i] * v[i];
    return r;
  }
  friend MSL_INLINE vec<T, C> operator*(const column& v, const matrix& a) {
    vec<T, C> r;
    for (int i = 0; i < C; ++i) r.data[i] = dot(v, a[i]);
    return r;
  }
  friend MSL_INLINE bool operator==(const matrix& a, const matrix& b) {
    bool r = true;
    for (int i = 0; i < C; ++i) r = r && all(a[i] == b[i]);
    return r;
  }
};
template <class T, int K, int R, int C>
MSL_INLINE matrix<T, C, R> operator*(const matrix<T, K, R>& a,
                                     const matrix<T, C, K>& b) {
  matrix<T, C, R> r;
  for (int i = 0; i < C; ++i) r[i] = a * b[i];
  return r;
}
template <class T, int C, int R>
MSL_INLINE matrix<T, R, C> transpose(const matrix<T, C, R>& m) {
  matrix<T, R, C> r;
  for (int i = 0; i < C; ++i) {
    for (int j = 0; j < R; ++j) r.columns[j].data[i] = m.columns[i].data[j];
  }
  return r;
}
}  // namespace metal

#define MSL_NAMED(T, C)                    \
  typedef metal::matrix<T, C, 2> T##C##x2; \
  typedef metal::matrix<T, C, 3> T##C##x3; \
  typedef metal::matrix<T, C, 4> T##C##x4;
#define MSL_NAMED_ALL(T) MSL_NAMED(T, 2) MSL_NAMED(T, 3) MSL_NAMED(T, 4)
MSL_NAMED_ALL(float)
MSL_NAMED_ALL(half)
#undef MSL_NAMED_ALL
#undef MSL_NAMED
namespace metal {
#define MSL_NAMED(T, C) \
  using ::T##C##x2;     \
  using ::T##C##x3;     \
  using ::T##C##x4;
#define MSL_NAMED_ALL(T) MSL_NAMED(T, 2) MSL_NAMED(T, 3) MSL_NAMED(T, 4)
MSL_NAMED_ALL(float)
MSL_NAMED_ALL(half)
#undef MSL_NAMED_ALL
#undef MSL_NAMED
}  // namespace metal
