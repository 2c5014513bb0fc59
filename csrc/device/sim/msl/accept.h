// csrc/device/sim/msl/accept.h: Metal's declarations for the type checker of
// accept.h, in C++ for OpenCL.  Nothing is run, so functions have bodies only
// where the optimizer must see through them to keep arrays in registers.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#define METAL_FUNC inline __attribute__((always_inline))
#define MSL_PURE __attribute__((const))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef signed char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;

#include "language.h"

namespace metal {

#if MSL_LANGUAGE >= 310
MSL_PURE ushort msl_narrow(float);
MSL_PURE float msl_widen(ushort);
// Conversions in both directions are written out.
struct bfloat {
  bfloat() = default;
  explicit bfloat(float x) : bits(msl_narrow(x)) {}
  explicit bfloat(half);
  explicit bfloat(int);
  explicit bfloat(uint);
  explicit operator float() const { return msl_widen(bits); }
  explicit operator half() const;
  explicit operator int() const;
  explicit operator bool() const;
  // Seen through, as a choice between two numbers.
  friend inline __attribute__((always_inline)) bfloat select(bfloat a,
                                                             bfloat b,
                                                             bool c) {
    a.bits = c ? b.bits : a.bits;
    return a;
  }

 private:
  ushort bits;
};
bfloat operator+(bfloat, bfloat);
bfloat operator-(bfloat, bfloat);
bfloat operator*(bfloat, bfloat);
bfloat operator/(bfloat, bfloat);
bfloat operator-(bfloat);
bool operator==(bfloat, bfloat);
bool operator!=(bfloat, bfloat);
bool operator<(bfloat, bfloat);
bool operator>(bfloat, bfloat);
bool operator<=(bfloat, bfloat);
bool operator>=(bfloat, bfloat);
#endif

template <class T, int N>
struct vec;
template <class T>
struct vec<T, 2> {
  vec() = default;
  explicit vec(T a) : x(a), y(a) {}
  vec(T x_, T y_) : x(x_), y(y_) {}
  T operator[](int i) const { return (&x)[i]; }
  thread T& operator[](int i) { return ((thread T*)this)[i]; }
  T x, y;
};
template <class T>
struct vec<T, 3> {
  vec() = default;
  explicit vec(T a) : x(a), y(a), z(a) {}
  vec(T x_, T y_, T z_) : x(x_), y(y_), z(z_) {}
  T operator[](int i) const { return (&x)[i]; }
  thread T& operator[](int i) { return ((thread T*)this)[i]; }
  T x, y, z;
};
template <class T>
struct vec<T, 4> {
  vec() = default;
  explicit vec(T a) : x(a), y(a), z(a), w(a) {}
  vec(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {}
  T operator[](int i) const { return (&x)[i]; }
  thread T& operator[](int i) { return ((thread T*)this)[i]; }
  T x, y, z, w;
};
#define MSL_OPERATOR(op)                                            \
  template <class T, int N>                                         \
  vec<T, N> operator op(vec<T, N>, vec<T, N>);                      \
  template <class T, int N>                                         \
  vec<T, N> operator op(vec<T, N>, T);                              \
  template <class T, int N>                                         \
  vec<T, N> operator op(T, vec<T, N>);                              \
  template <class T, int N>                                         \
  thread vec<T, N>& operator op## = (thread vec<T, N>&, vec<T, N>); \
  template <class T, int N>                                         \
  thread vec<T, N>& operator op## = (thread vec<T, N>&, T);
MSL_OPERATOR(+)
MSL_OPERATOR(-)
MSL_OPERATOR(*)
MSL_OPERATOR(/)
MSL_OPERATOR(&)
MSL_OPERATOR(|)
MSL_OPERATOR(^)
#undef MSL_OPERATOR

#define MSL_VECTORS(T)    \
  typedef vec<T, 2> T##2; \
  typedef vec<T, 3> T##3; \
  typedef vec<T, 4> T##4;
MSL_VECTORS(float)
MSL_VECTORS(half)
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
#if MSL_LANGUAGE >= 310
MSL_VECTORS(bfloat)
#endif
#undef MSL_VECTORS

#define MSL_FLOAT_1(name) \
  float name(float);      \
  half name(half);
#define MSL_FLOAT_2(name)   \
  float name(float, float); \
  half name(half, half);
// clang-format off
#define MSL_MATH                                                            \
  MSL_FLOAT_1(exp) MSL_FLOAT_1(exp2) MSL_FLOAT_1(exp10)                     \
  MSL_FLOAT_1(log) MSL_FLOAT_1(log2) MSL_FLOAT_1(log10)                     \
  MSL_FLOAT_1(sqrt) MSL_FLOAT_1(rsqrt) MSL_FLOAT_1(sin)                     \
  MSL_FLOAT_1(cos) MSL_FLOAT_1(tan) MSL_FLOAT_1(tanh)                       \
  MSL_FLOAT_1(sinh) MSL_FLOAT_1(cosh) MSL_FLOAT_1(floor)                    \
  MSL_FLOAT_1(ceil) MSL_FLOAT_1(rint) MSL_FLOAT_1(round)                    \
  MSL_FLOAT_1(trunc) MSL_FLOAT_1(fabs)                                      \
  MSL_FLOAT_2(pow) MSL_FLOAT_2(powr) MSL_FLOAT_2(fmod)                      \
  MSL_FLOAT_2(divide) MSL_FLOAT_2(fmin) MSL_FLOAT_2(fmax)
// clang-format on
MSL_MATH
namespace fast {
MSL_MATH
}
namespace precise {
MSL_MATH
}
#undef MSL_MATH
#undef MSL_FLOAT_1
#undef MSL_FLOAT_2
float fma(float, float, float);
half fma(half, half, half);
bool isnan(float);
bool isinf(float);
bool isfinite(float);

// T is deduced from both, as Metal's overloads need one type.
template <class T>
T min(T, T);
template <class T>
T max(T, T);
template <class T>
T clamp(T, T, T);
template <class T>
T abs(T);
template <class T>
T select(T, T, bool);
uint mulhi(uint, uint);
int mulhi(int, int);
uint popcount(uint);
uint clz(uint);
uint ctz(uint);

template <class To, class From>
To as_type(From x) {
  To to;
  __builtin_memcpy(&to, &x, sizeof(To));
  return to;
}

enum class mem_flags {
  mem_none,
  mem_device,
  mem_threadgroup,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(int(a) | int(b));
}
constexpr mem_flags operator&(mem_flags a, mem_flags b) {
  return mem_flags(int(a) & int(b));
}
constexpr mem_flags operator^(mem_flags a, mem_flags b) {
  return mem_flags(int(a) ^ int(b));
}
constexpr mem_flags operator~(mem_flags a) { return mem_flags(~int(a)); }
#if MSL_LANGUAGE >= 320
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};
void threadgroup_barrier(mem_flags, thread_scope = thread_scope_threadgroup);
void simdgroup_barrier(mem_flags, thread_scope = thread_scope_simdgroup);
#else
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
#endif

#define MSL_SIMD(name) \
  template <class T>   \
  T name(T);
MSL_SIMD(simd_sum)
MSL_SIMD(simd_max)
MSL_SIMD(simd_min)
MSL_SIMD(simd_broadcast_first)
#undef MSL_SIMD
#define MSL_SHUFFLE(name) \
  template <class T>      \
  T name(T, ushort);
MSL_SHUFFLE(simd_shuffle)
MSL_SHUFFLE(simd_shuffle_xor)
MSL_SHUFFLE(simd_shuffle_up)
MSL_SHUFFLE(simd_shuffle_down)
MSL_SHUFFLE(simd_broadcast)
#undef MSL_SHUFFLE
bool simd_any(bool);
bool simd_all(bool);
bool simd_is_first();

template <class T, int R, int C>
struct simdgroup_matrix {
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T x) : elements(x) {}
  thread vec<T, 2>& thread_elements() { return *(thread vec<T, 2>*)this; }
  vec<T, 2> thread_elements() const { return elements; }

  vec<T, 2> elements;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
#if MSL_LANGUAGE >= 310
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
#endif
template <class T, int R, int C>
simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T x) {
  return simdgroup_matrix<T, R, C>(x);
}
// Eight elements in, two out, as far as registers go.
MSL_PURE float msl_product(float, float, float, float, float);
template <class T>
void simdgroup_load(thread simdgroup_matrix<T, 8, 8>&,
                    const device T*,
                    ulong stride = 8);
template <class T>
void simdgroup_load(thread simdgroup_matrix<T, 8, 8>&,
                    const threadgroup T*,
                    ulong stride = 8);
template <class T>
void simdgroup_store(thread simdgroup_matrix<T, 8, 8>&,
                     device T*,
                     ulong stride = 8);
template <class T>
void simdgroup_store(thread simdgroup_matrix<T, 8, 8>&,
                     threadgroup T*,
                     ulong stride = 8);
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d,
                                   thread const simdgroup_matrix<A, 8, 8>& a,
                                   thread const simdgroup_matrix<B, 8, 8>& b,
                                   thread const simdgroup_matrix<C, 8, 8>& c) {
  const float a0 = float(a.elements.x), a1 = float(a.elements.y);
  const float b0 = float(b.elements.x), b1 = float(b.elements.y);
  const D x = D(msl_product(a0, a1, b0, b1, float(c.elements.x)));
  const D y = D(msl_product(a1, a0, b0, b1, float(c.elements.y)));
  d.elements.x = x;
  d.elements.y = y;
}
template <class D, class A, class B>
void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d,
                        thread const simdgroup_matrix<A, 8, 8>& a,
                        thread const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace metal

using metal::as_type;
#if MSL_LANGUAGE >= 310
using metal::bfloat;
#endif
