// csrc/device/sim/msl/accept_matrix.h: Metal's matrices, and those of a
// simdgroup, for the type checker; see accept.h.
#pragma once

#include "accept_math.h"

namespace metal {

template <class T>
constexpr __constant bool msl_in_simdgroup_matrix =
    __is_same(T, float) || __is_same(T, half) || MSL_IS_BFLOAT(T);

template <class T, int columns_, int rows_ = columns_>
struct matrix {
  static_assert(msl_in_simdgroup_matrix<T> && columns_ >= 2 && columns_ <= 4 &&
                    rows_ >= 2 && rows_ <= 4,
                "a matrix is of floating point numbers, two to four by two to "
                "four");
  typedef vec<T, rows_> C;
  matrix() = default;
  MSL_COPIES(matrix)
#define MSL_MAKE(space)                                                     \
  constexpr explicit matrix(T x) space : msl_c{} {                          \
    for (int i = 0; i < columns_ && i < rows_; ++i) msl_c[i].msl_v[i] = x;  \
  }                                                                         \
  /* All columns, or all elements. */                                       \
  template <class A, class B, class... More,                                \
            class = enable_if_t<msl_makes<A, B, More...>>>                  \
  constexpr matrix(A a, B b, More... more) space : msl_c{} {                \
    if constexpr (2 + sizeof...(More) == columns_) {                        \
      const C all[] = {C(a), C(b), C(more)...};                             \
      for (int i = 0; i < columns_; ++i) msl_c[i] = all[i];                 \
    } else {                                                                \
      const T all[] = {T(a), T(b), T(more)...};                             \
      for (int i = 0; i < columns_ * rows_; ++i) {                          \
        msl_c[i / rows_].msl_v[i % rows_] = all[i];                         \
      }                                                                     \
    }                                                                       \
  }                                                                         \
  template <class U, class = enable_if_t<!__is_same(T, U)>>                 \
  constexpr explicit matrix(matrix<U, columns_, rows_> o) space : msl_c{} { \
    for (int i = 0; i < columns_; ++i) msl_c[i] = C(o.msl_c[i]);            \
  }
  template <class... A>
  static constexpr __constant bool msl_makes =
      (sizeof...(A) == columns_ &&
       (((msl_element<A>::count == rows_ || msl_element<A>::count == 0) &&
         __is_convertible_to(A, C)) &&
        ...)) ||
      (sizeof...(A) == columns_ * rows_ &&
       ((msl_element<A>::count == 0 && __is_convertible_to(A, T)) && ...));
  MSL_MAKE()
  MSL_MAKE(__constant)
#undef MSL_MAKE
#define MSL_AT(space)                                              \
  MSL_INLINE space C& operator[](int i) space { return msl_c[i]; } \
  MSL_INLINE const space C& operator[](int i) const space { return msl_c[i]; }
  MSL_AT(thread)
  MSL_AT(device)
  MSL_AT(threadgroup)
#undef MSL_AT
  MSL_INLINE constexpr const __constant C& operator[](int i) const __constant {
    return msl_c[i];
  }
  MSL_INLINE auto& operator+=(matrix o) { return *this = matrix(*this) + o; }
  MSL_INLINE auto& operator-=(matrix o) { return *this = matrix(*this) - o; }
  MSL_INLINE auto& operator*=(T x) { return *this = matrix(*this) * x; }
  MSL_INLINE auto& operator/=(T x) { return *this = matrix(*this) / x; }
  MSL_INLINE auto& operator*=(matrix<T, columns_, columns_> o) {
    return *this = matrix(*this) * o;
  }

  C msl_c[columns_];
};

#define MSL_MATRIX template <class T, int K, int R>
#define MSL_PLAIN(op)                                                    \
  MSL_MATRIX MSL_INLINE matrix<T, K, R> operator op(matrix<T, K, R> a,   \
                                                    matrix<T, K, R> b) { \
    for (int i = 0; i < K; ++i) a.msl_c[i] = a.msl_c[i] op b.msl_c[i];   \
    return a;                                                            \
  }
MSL_PLAIN(+)
MSL_PLAIN(-)
#undef MSL_PLAIN
MSL_MATRIX MSL_INLINE matrix<T, K, R> operator-(matrix<T, K, R> a) {
  return matrix<T, K, R>(T(0)) - a;
}
template <class T>
struct msl_exactly {
  typedef T type;
};
MSL_MATRIX MSL_INLINE matrix<T, K, R> operator*(
    matrix<T, K, R> a, typename msl_exactly<T>::type x) {
  for (int i = 0; i < K; ++i) a.msl_c[i] = a.msl_c[i] * x;
  return a;
}
MSL_MATRIX MSL_INLINE matrix<T, K, R> operator*(typename msl_exactly<T>::type x,
                                                matrix<T, K, R> a) {
  return a * x;
}
MSL_MATRIX MSL_INLINE matrix<T, K, R> operator/(
    matrix<T, K, R> a, typename msl_exactly<T>::type x) {
  for (int i = 0; i < K; ++i) a.msl_c[i] = a.msl_c[i] / x;
  return a;
}
MSL_MATRIX MSL_INLINE vec<T, R> operator*(matrix<T, K, R> a, vec<T, K> x) {
  vec<T, R> sum(T(0));
  for (int i = 0; i < K; ++i) sum += a.msl_c[i] * x.msl_v[i];
  return sum;
}
MSL_MATRIX MSL_INLINE vec<T, K> operator*(vec<T, R> x, matrix<T, K, R> a) {
  vec<T, K> sum(T(0));
  for (int i = 0; i < K; ++i) sum.msl_v[i] = dot(x, a.msl_c[i]);
  return sum;
}
template <class T, int K, int R, int N>
MSL_INLINE matrix<T, N, R> operator*(matrix<T, K, R> a, matrix<T, N, K> b) {
  matrix<T, N, R> product;
  for (int i = 0; i < N; ++i) product.msl_c[i] = a * b.msl_c[i];
  return product;
}
MSL_MATRIX MSL_INLINE bool operator==(matrix<T, K, R> a, matrix<T, K, R> b) {
  bool same = true;
  for (int i = 0; i < K; ++i) same = same && all(a.msl_c[i] == b.msl_c[i]);
  return same;
}
MSL_MATRIX MSL_INLINE bool operator!=(matrix<T, K, R> a, matrix<T, K, R> b) {
  return !(a == b);
}
MSL_MATRIX MSL_INLINE matrix<T, R, K> transpose(matrix<T, K, R> a) {
  matrix<T, R, K> turned;
  for (int i = 0; i < K; ++i) {
    for (int k = 0; k < R; ++k) {
      turned.msl_c[k].msl_v[i] = a.msl_c[i].msl_v[k];
    }
  }
  return turned;
}
template <class T, int N>
MSL_INLINE T determinant(matrix<T, N, N> a) {
  return a.msl_c[0].msl_v[0] * msl_unknown(a.msl_c[1].msl_v[1]);
}
#undef MSL_MATRIX

template <class T, int columns_, int rows_ = columns_>
struct simdgroup_matrix {
  static_assert(msl_in_simdgroup_matrix<T>,
                "invalid element type 'T' for 'simdgroup_matrix'");
  static_assert(columns_ == 8 && rows_ == 8,
                "invalid size for 'simdgroup_matrix'");
  typedef vec<T, columns_ * rows_> storage_type;
  simdgroup_matrix() = default;
  MSL_INLINE explicit simdgroup_matrix(T x) : msl_elements() {
    msl_elements.msl_v[0] = x;
    msl_elements.msl_v[1] = T(0);
  }
  MSL_INLINE thread storage_type& thread_elements() {
    return msl_in_thread(msl_elements);
  }
  MSL_INLINE storage_type thread_elements() const { return msl_elements; }

  storage_type msl_elements;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
#if MSL_LANGUAGE >= 310
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
#endif

template <class T,
          int columns,
          int rows = columns,
          class U,
          class = enable_if_t<__is_convertible_to(U, T)>>
MSL_INLINE simdgroup_matrix<T, columns, rows> make_filled_simdgroup_matrix(
    U x) {
  simdgroup_matrix<T, columns, rows> filled;
  filled.msl_elements.msl_v[0] = filled.msl_elements.msl_v[1] = T(x);
  return filled;
}

#define MSL_MEMORY(space)                                               \
  template <class T, int K, int R>                                      \
  MSL_INLINE void simdgroup_load(thread simdgroup_matrix<T, K, R>& d,   \
                                 const space T* from, ulong stride = K, \
                                 ulong2 origin = ulong2(0, 0),          \
                                 bool transposed = false) {             \
    const ulong at = origin.x + origin.y * stride + transposed;         \
    d.msl_elements.msl_v[0] = from[at];                                 \
    d.msl_elements.msl_v[1] = from[at + 1];                             \
  }                                                                     \
  template <class T, int K, int R>                                      \
  MSL_INLINE void simdgroup_store(                                      \
      simdgroup_matrix<T, K, R> a, space T* to, ulong stride = K,       \
      ulong2 origin = ulong2(0, 0), bool transposed = false) {          \
    const ulong at = origin.x + origin.y * stride + transposed;         \
    to[at] = a.msl_elements.msl_v[0];                                   \
    to[at + 1] = a.msl_elements.msl_v[1];                               \
  }
MSL_MEMORY(device)
MSL_MEMORY(threadgroup)
#undef MSL_MEMORY

// Eight elements in, two out, as far as registers go.
MSL_PURE float msl_product(float, float, float, float, float);
template <class D, class A, class B, class E, int K, int R, int N>
MSL_INLINE void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, N, R>& d,
    simdgroup_matrix<A, K, R> a,
    simdgroup_matrix<B, N, K> b,
    simdgroup_matrix<E, N, R> c) {
  const float a0 = float(a.msl_elements.msl_v[0]);
  const float a1 = float(a.msl_elements.msl_v[1]);
  const float b0 = float(b.msl_elements.msl_v[0]);
  const float b1 = float(b.msl_elements.msl_v[1]);
  const D x = D(msl_product(a0, a1, b0, b1, float(c.msl_elements.msl_v[0])));
  const D y = D(msl_product(a1, a0, b0, b1, float(c.msl_elements.msl_v[1])));
  d.msl_elements.msl_v[0] = x;
  d.msl_elements.msl_v[1] = y;
}
template <class D, class A, class B, int K, int R, int N>
MSL_INLINE void simdgroup_multiply(thread simdgroup_matrix<D, N, R>& d,
                                   simdgroup_matrix<A, K, R> a,
                                   simdgroup_matrix<B, N, K> b) {
  simdgroup_multiply_accumulate(d, a, b,
                                make_filled_simdgroup_matrix<float, 8>(0.0f));
}
template <class A, class B, int K, int R, int N>
MSL_INLINE simdgroup_matrix<A, N, R> operator*(simdgroup_matrix<A, K, R> a,
                                               simdgroup_matrix<B, N, K> b) {
  simdgroup_matrix<A, N, R> d;
  simdgroup_multiply(d, a, b);
  return d;
}
template <class A, class B, int K, int R>
MSL_INLINE thread simdgroup_matrix<A, K, R>& operator*=(
    thread simdgroup_matrix<A, K, R>& a, simdgroup_matrix<B, R, K> b) {
  return a = a * b;
}
}  // namespace metal

#define MSL_NAMES(T)                     \
  typedef metal::matrix<T, 2, 2> T##2x2; \
  typedef metal::matrix<T, 2, 3> T##2x3; \
  typedef metal::matrix<T, 2, 4> T##2x4; \
  typedef metal::matrix<T, 3, 2> T##3x2; \
  typedef metal::matrix<T, 3, 3> T##3x3; \
  typedef metal::matrix<T, 3, 4> T##3x4; \
  typedef metal::matrix<T, 4, 2> T##4x2; \
  typedef metal::matrix<T, 4, 3> T##4x3; \
  typedef metal::matrix<T, 4, 4> T##4x4;
namespace metal {
MSL_NAMES(half)
MSL_NAMES(float)
}  // namespace metal
#undef MSL_NAMES
