// kernels/tile/memory.h: rows of a tensor to and from registers, VEC elements
// at a time.  The host picks VEC so that every row, offset and HEAD_DIM is a
// multiple of it: a vector lies wholly inside a row or wholly outside.
#pragma once

// N elements in one instruction, and as one value between memory and elements.
template <int N>
struct Wide;

#if OPERAND_BYTES > ELEM_BYTES
#include "tile/promoted.h"
#else
template <>
struct Wide<1> {
  typedef ELEM Packed;
  static METAL_FUNC Packed zero() { return ELEM(0.0f); }
  static METAL_FUNC void unpack(Packed x, thread OPERAND* to) { to[0] = x; }
  static METAL_FUNC void store(device ELEM* to, thread const OPERAND* from) {
    to[0] = from[0];
  }
};

#if ELEM_BYTES == 2
// As one word: two halves are a vector that a compiler may read one by one.
template <>
struct Wide<2> {
  typedef uint Packed;
  static METAL_FUNC Packed zero() { return 0u; }
  static METAL_FUNC void unpack(Packed x, thread OPERAND* to) {
    vec<ELEM, 2> a = as_type<vec<ELEM, 2>>(x);
    to[0] = a.x;
    to[1] = a.y;
  }
  static METAL_FUNC void store(device ELEM* to, thread const OPERAND* from) {
    *(device uint*)to = as_type<uint>(vec<ELEM, 2>(from[0], from[1]));
  }
};
#else
template <>
struct Wide<2> {
  typedef vec<ELEM, 2> Packed;
  static METAL_FUNC Packed zero() { return Packed(ELEM(0.0f), ELEM(0.0f)); }
  static METAL_FUNC void unpack(Packed x, thread OPERAND* to) {
    to[0] = x.x;
    to[1] = x.y;
  }
  static METAL_FUNC void store(device ELEM* to, thread const OPERAND* from) {
    *(device Packed*)to = Packed(from[0], from[1]);
  }
};
#endif

template <>
struct Wide<4> {
  typedef vec<ELEM, 4> Packed;
  static METAL_FUNC Packed zero() {
    return Packed(ELEM(0.0f), ELEM(0.0f), ELEM(0.0f), ELEM(0.0f));
  }
  static METAL_FUNC void unpack(Packed x, thread OPERAND* to) {
    to[0] = x.x;
    to[1] = x.y;
    to[2] = x.z;
    to[3] = x.w;
  }
  static METAL_FUNC void store(device ELEM* to, thread const OPERAND* from) {
    *(device Packed*)to = Packed(from[0], from[1], from[2], from[3]);
  }
};

#if ELEM_BYTES == 2
// MSL has no vector of eight: 16 bytes travel as a uint4.
template <>
struct Wide<8> {
  typedef uint4 Packed;
  static METAL_FUNC Packed zero() { return uint4(0u, 0u, 0u, 0u); }
  static METAL_FUNC void unpack(Packed x, thread OPERAND* to) {
    vec<ELEM, 2> a = as_type<vec<ELEM, 2>>(x.x);
    vec<ELEM, 2> b = as_type<vec<ELEM, 2>>(x.y);
    vec<ELEM, 2> c = as_type<vec<ELEM, 2>>(x.z);
    vec<ELEM, 2> d = as_type<vec<ELEM, 2>>(x.w);
    to[0] = a.x;
    to[1] = a.y;
    to[2] = b.x;
    to[3] = b.y;
    to[4] = c.x;
    to[5] = c.y;
    to[6] = d.x;
    to[7] = d.y;
  }
  static METAL_FUNC void store(device ELEM* to, thread const OPERAND* from) {
    uint4 x;
    x.x = as_type<uint>(vec<ELEM, 2>(from[0], from[1]));
    x.y = as_type<uint>(vec<ELEM, 2>(from[2], from[3]));
    x.z = as_type<uint>(vec<ELEM, 2>(from[4], from[5]));
    x.w = as_type<uint>(vec<ELEM, 2>(from[6], from[7]));
    *(device uint4*)to = x;
  }
};
#endif
#endif

template <int N>
METAL_FUNC void load_wide(device const ELEM* from, thread OPERAND* to) {
  Wide<N>::unpack(*(device const typename Wide<N>::Packed*)from, to);
}

// Row `row` of a tensor, or its last one: what comes of a row that is not there
// is masked or not stored, so it need not be zero, only readable.  A test in
// front of each load would cost more than the load.
METAL_FUNC device const ELEM* row_of(device const ELEM* x,
                                     long stride,
                                     int row,
                                     int rows) {
  return x + Index(min(row, rows - 1)) * Index(stride);
}

// Reads elements d .. d + W - 1 of a row; what lies past the row's DIM
// elements reads as zero.
template <int W, int DIM, int IS_RAGGED>
METAL_FUNC void load_row(device const ELEM* row, int d, thread OPERAND* x) {
  constexpr int n = W < VEC ? W : VEC;
  typedef typename Wide<n>::Packed Packed;
#pragma clang loop unroll(full)
  for (int i = 0; i < W; i += n) {
    // Unpacked after the choice: one of whole vectors, not of each element.
    Packed packed = Wide<n>::zero();
    if (!IS_RAGGED || d + i < DIM)
      packed = *(device const Packed*)(row + d + i);
    Wide<n>::unpack(packed, x + i);
  }
}

#if IS_PARTIAL
// N numbers of a result in one instruction; MSL has no vector of eight.
template <int N>
struct WideResult;

template <>
struct WideResult<1> {
  static METAL_FUNC void store(device RESULT* to,
                               thread const RESULT_OPERAND* from) {
    to[0] = from[0];
  }
};

template <>
struct WideResult<2> {
  typedef vec<RESULT, 2> Packed;
  static METAL_FUNC void store(device RESULT* to,
                               thread const RESULT_OPERAND* from) {
    *(device Packed*)to = Packed(from[0], from[1]);
  }
};

template <>
struct WideResult<4> {
  typedef vec<RESULT, 4> Packed;
  static METAL_FUNC void store(device RESULT* to,
                               thread const RESULT_OPERAND* from) {
    *(device Packed*)to = Packed(from[0], from[1], from[2], from[3]);
  }
};
#if VEC < 4
#define MOST_IN_RESULT VEC
#else
#define MOST_IN_RESULT 4
#endif
#else
#define WideResult Wide
#define MOST_IN_RESULT VEC
#endif

template <int W, int DIM, int IS_RAGGED>
METAL_FUNC void store_row(device RESULT* row,
                          int d,
                          thread const RESULT_OPERAND* x) {
  constexpr int n = W < MOST_IN_RESULT ? W : MOST_IN_RESULT;
#pragma clang loop unroll(full)
  for (int i = 0; i < W; i += n) {
    if (!IS_RAGGED || d + i < DIM) WideResult<n>::store(row + d + i, x + i);
  }
}
