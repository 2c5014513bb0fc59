// kernels/tile/unit.h: gradients of scores become operands, and half ends at
// 65504, where the gradients of q and k, sums of them times small numbers, may
// be far from it.  In half, a simdgroup therefore holds them, and what it adds
// up of them, times a power of two, its unit, which it lowers when a tile does
// not fit.  Products with a power of two are exact, and each simdgroup walks
// its tiles in order: the same bits on every run.
#pragma once

#define LARGEST_HALF 65504.0f

// Where the unit starts: above 1, so that small gradients, which half rounds to
// multiples of 2^-24, lose less.
#if IS_HALF
#define FIRST_UNIT 1024.0f
#else
#define FIRST_UNIT 1.0f
#endif

#if IS_HALF
// The binary exponent of a finite number, as its bits have it, else 0: what is
// infinite or no number stays so in any unit.
METAL_FUNC uint finite_exponent(float x) {
  uint exponent = (as_type<uint>(x) >> 23) & 0xffu;
  return exponent == 0xffu ? 0u : exponent;
}

// Lowers the unit until the largest number of a tile is 2^14 to 2^15, and
// brings the tile and the sums of the tiles before to it.
template <int COUNT>
METAL_FUNC void lower_unit(thread Accumulator* ds,
                           thread float& unit,
                           thread Accumulator* sums) {
  uint exponent = 0u;
#pragma clang loop unroll(full)
  for (int f = 0; f < TILE_ROWS * TILE_COLS; ++f) {
#pragma clang loop unroll(full)
    for (int e = 0; e < 2; ++e) {
      uint found = finite_exponent(ds[f].thread_elements()[e]);
      exponent = max(exponent, found);
    }
  }
#pragma clang loop unroll(full)
  for (int bit = 1; bit < 32; bit *= 2) {
    exponent = max(exponent, simd_shuffle_xor(exponent, ushort(bit)));
  }
  if (exponent < 127u + 15u) return;
  float factor = as_type<float>((2u * 127u + 14u - exponent) << 23);
  unit *= factor;
  multiply_all<TILE_ROWS * TILE_COLS>(ds, factor);
  multiply_all<COUNT>(sums, factor);
}
#endif

// Makes a tile of gradients, in the simdgroup's unit, fit the element type.
template <int COUNT>
METAL_FUNC void fit_unit(thread Accumulator* ds,
                         thread float& unit,
                         thread Accumulator* sums) {
#if IS_HALF
  float largest = 0.0f;
#pragma clang loop unroll(full)
  for (int f = 0; f < TILE_ROWS * TILE_COLS; ++f) {
#pragma clang loop unroll(full)
    for (int e = 0; e < 2; ++e) {
      float size = fabs(ds[f].thread_elements()[e]);
      largest = max(largest, size);
    }
  }
  if (simd_any(largest > LARGEST_HALF)) lower_unit<COUNT>(ds, unit, sums);
#endif
}
