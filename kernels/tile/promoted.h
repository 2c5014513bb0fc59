// kernels/tile/promoted.h: Wide of tile/memory.h for bfloat where a GPU has no
// such arithmetic (M1, M2): a bfloat is the upper half of a float.  It is put
// there when it is loaded, is a float as long as it is in registers, and is
// rounded in integers when it is stored.
#pragma once

METAL_FUNC float promoted_low(uint pair) { return as_type<float>(pair << 16); }

METAL_FUNC float promoted_high(uint pair) {
  return as_type<float>(pair & 0xffff0000u);
}

// To the nearest, ties to even; NaN stays NaN whatever its lower half holds.
METAL_FUNC uint demoted(float x) {
  uint bits = as_type<uint>(x);
  uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return is_nan ? (bits >> 16) | 0x40u : rounded;
}

METAL_FUNC uint demoted_pair(thread const float* x) {
  return demoted(x[0]) | demoted(x[1]) << 16;
}

template <>
struct Wide<1> {
  typedef ushort Packed;
  static METAL_FUNC Packed zero() { return ushort(0u); }
  static METAL_FUNC void unpack(Packed x, thread float* to) {
    to[0] = promoted_low(uint(x));
  }
  static METAL_FUNC void store(device ELEM* to, thread const float* from) {
    *(device ushort*)to = ushort(demoted(from[0]));
  }
};

template <>
struct Wide<2> {
  typedef uint Packed;
  static METAL_FUNC Packed zero() { return 0u; }
  static METAL_FUNC void unpack(Packed x, thread float* to) {
    to[0] = promoted_low(x);
    to[1] = promoted_high(x);
  }
  static METAL_FUNC void store(device ELEM* to, thread const float* from) {
    *(device uint*)to = demoted_pair(from);
  }
};

template <>
struct Wide<4> {
  typedef uint2 Packed;
  static METAL_FUNC Packed zero() { return uint2(0u, 0u); }
  static METAL_FUNC void unpack(Packed x, thread float* to) {
    Wide<2>::unpack(x.x, to);
    Wide<2>::unpack(x.y, to + 2);
  }
  static METAL_FUNC void store(device ELEM* to, thread const float* from) {
    *(device uint2*)to = uint2(demoted_pair(from), demoted_pair(from + 2));
  }
};

template <>
struct Wide<8> {
  typedef uint4 Packed;
  static METAL_FUNC Packed zero() { return uint4(0u, 0u, 0u, 0u); }
  static METAL_FUNC void unpack(Packed x, thread float* to) {
    Wide<2>::unpack(x.x, to);
    Wide<2>::unpack(x.y, to + 2);
    Wide<2>::unpack(x.z, to + 4);
    Wide<2>::unpack(x.w, to + 6);
  }
  static METAL_FUNC void store(device ELEM* to, thread const float* from) {
    *(device uint4*)to = uint4(demoted_pair(from), demoted_pair(from + 2),
                               demoted_pair(from + 4), demoted_pair(from + 6));
  }
};
