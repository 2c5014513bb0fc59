// kernels/tile/fragment.h: 8x8 fragments of a tensor for the matrix unit, read
// with the widest loads (docs/kernels.md, "Fragment loads").
//
// A product does not change when the contraction index is permuted in both
// operands, nor when output columns are permuted and stored back so.  Each lane
// therefore reads contiguous elements and spreads them over fragments:
//   contraction chunk of 8w: slot s of fragment j is dimension d0 + w s + j;
//   output chunk of 4w: columns 2p, 2p+1 of fragment j are d0 + w p + 2j, +1,
//   and so may slots 2p, 2p+1 of a contraction.
#pragma once

typedef simdgroup_matrix<OPERAND, 8, 8> Operand;
typedef simdgroup_matrix<float, 8, 8> Accumulator;

#define MAX_W (16 / ELEM_BYTES)

// Largest w <= MAX_W with unit * w <= left, halving.
constexpr int chunk_w(int left, int unit) {
  return left >= unit * MAX_W                         ? MAX_W
         : left >= unit * (MAX_W / 2)                 ? MAX_W / 2
         : (MAX_W >= 4 && left >= unit * (MAX_W / 4)) ? MAX_W / 4
                                                      : 1;
}

METAL_FUNC void set_pair(thread Operand& to, OPERAND first, OPERAND second) {
  to.thread_elements()[0] = first;
  to.thread_elements()[1] = second;
}

METAL_FUNC Accumulator zero_accumulator() {
  return make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}

// Of an array of them.
template <int COUNT>
METAL_FUNC void multiply_all(thread Accumulator* x, float factor) {
#pragma clang loop unroll(full)
  for (int f = 0; f < COUNT; ++f) {
    x[f].thread_elements()[0] *= factor;
    x[f].thread_elements()[1] *= factor;
  }
}

template <int COUNT>
METAL_FUNC void clear_all(thread Accumulator* x) {
#pragma clang loop unroll(full)
  for (int f = 0; f < COUNT; ++f) x[f] = zero_accumulator();
}

// acc += a * b
METAL_FUNC void multiply_add(thread Accumulator& acc,
                             thread const Operand& a,
                             thread const Operand& b) {
  simdgroup_multiply_accumulate(acc, a, b, acc);
}

// Walks a slice of LENGTH dimensions that starts at dimension `base` of rows of
// DIM, from D0 on.  LENGTH is a multiple of 8; fragments are numbered d / 8.
template <int DIM, int LENGTH, int D0>
struct Contract {
  enum { w = chunk_w(LENGTH - D0, 8), ragged = SLICES * LENGTH != DIM };
  typedef Contract<DIM, LENGTH, D0 + 8 * w> Next;

  // Left operand: rows of x along the fragment's rows, contracted over d.
  static METAL_FUNC void load_rows(device const ELEM* row,
                                   int base,
                                   Lane at,
                                   thread Operand* to) {
    OPERAND x[2 * w];
    load_row<w, DIM, ragged>(row, base + D0 + 2 * w * at.pair, x);
    load_row<w, DIM, ragged>(row, base + D0 + 2 * w * at.pair + w, x + w);
#pragma clang loop unroll(full)
    for (int j = 0; j < w; ++j) set_pair(to[D0 / 8 + j], x[j], x[w + j]);
    Next::load_rows(row, base, at, to);
  }

  // Fragments whose columns are two rows of x, one after the other, and whose
  // rows are slots of d: x^T as right operand, and x^T as left operand.
  static METAL_FUNC void load_columns(device const ELEM* first,
                                      device const ELEM* second,
                                      int base,
                                      Lane at,
                                      thread Operand* to) {
    OPERAND x[2 * w];
    load_row<w, DIM, ragged>(first, base + D0 + w * at.row, x);
    load_row<w, DIM, ragged>(second, base + D0 + w * at.row, x + w);
#pragma clang loop unroll(full)
    for (int j = 0; j < w; ++j) set_pair(to[D0 / 8 + j], x[j], x[w + j]);
    Next::load_columns(first, second, base, at, to);
  }

  // Stores accumulators in the order of load_columns, times `factor`, added to
  // what memory holds.
  static METAL_FUNC void store_columns(device RESULT* row,
                                       long row_stride,
                                       int rows_left,
                                       int base,
                                       Lane at,
                                       float factor,
                                       Stored stored,
                                       thread Accumulator* from) {
    RESULT_OPERAND x[2 * w];
#pragma clang loop unroll(full)
    for (int j = 0; j < w; ++j) {
      x[j] = RESULT_OPERAND(from[D0 / 8 + j].thread_elements()[0] * factor);
      x[w + j] = RESULT_OPERAND(from[D0 / 8 + j].thread_elements()[1] * factor);
    }
    int d = base + D0 + w * at.row;
    if (rows_left > 0) {
      add_stored<w, DIM, ragged>(row, d, stored, x);
      store_row<w, DIM, ragged>(row, d, x);
    }
    if (rows_left > 1) {
      add_stored<w, DIM, ragged>(row + row_stride, d, stored, x + w);
      store_row<w, DIM, ragged>(row + row_stride, d, x + w);
    }
    Next::store_columns(row, row_stride, rows_left, base, at, factor, stored,
                        from);
  }
};

template <int DIM, int LENGTH>
struct Contract<DIM, LENGTH, LENGTH> {
  static METAL_FUNC void load_rows(device const ELEM*,
                                   int,
                                   Lane,
                                   thread Operand*) {}
  static METAL_FUNC void load_columns(
      device const ELEM*, device const ELEM*, int, Lane, thread Operand*) {}
  static METAL_FUNC void store_columns(device RESULT*,
                                       long,
                                       int,
                                       int,
                                       Lane,
                                       float,
                                       Stored,
                                       thread Accumulator*) {}
};

// The same walk where d runs along the output's columns, or where a lane's two
// slots are neighbors.
template <int DIM, int LENGTH, int D0>
struct Spread {
  enum {
    w = 2 * chunk_w(LENGTH - D0, 8) > MAX_W ? MAX_W
                                            : 2 * chunk_w(LENGTH - D0, 8),
    ragged = SLICES * LENGTH != DIM
  };
  typedef Spread<DIM, LENGTH, D0 + 4 * w> Next;

  // Left operand: rows of x along the fragment's rows, contracted over d.  A
  // lane's pair lies side by side in one load: nothing has to be moved.
  static METAL_FUNC void load_rows(device const ELEM* row,
                                   int base,
                                   Lane at,
                                   thread Operand* to) {
    OPERAND x[w];
    load_row<w, DIM, ragged>(row, base + D0 + w * at.pair, x);
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
      set_pair(to[D0 / 8 + j], x[2 * j], x[2 * j + 1]);
    }
    Next::load_rows(row, base, at, to);
  }

  // The right operand for load_rows, two rows of x along its columns.  Half of
  // what is read is not used: for what stays in registers.
  static METAL_FUNC void load_columns(device const ELEM* first,
                                      device const ELEM* second,
                                      int base,
                                      Lane at,
                                      thread Operand* to) {
    OPERAND x[2 * w];
    int d = base + D0 + w * (at.row / 2);
    load_row<w, DIM, ragged>(first, d, x);
    load_row<w, DIM, ragged>(second, d, x + w);
    bool is_odd = at.row % 2 != 0;
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
      // Not by ?:, which may choose the index first: an array that is indexed
      // by a value leaves the registers.
      set_pair(to[D0 / 8 + j], select(x[2 * j], x[2 * j + 1], is_odd),
               select(x[w + 2 * j], x[w + 2 * j + 1], is_odd));
    }
    Next::load_columns(first, second, base, at, to);
  }

  // acc[...] += a * x, where `row` is row at.row of the 8-row fragment of x.
  static METAL_FUNC void multiply_rows(device const ELEM* row,
                                       int base,
                                       Lane at,
                                       thread const Operand* a,
                                       thread Accumulator* acc) {
    OPERAND x[w];
    load_row<w, DIM, ragged>(row, base + D0 + w * at.pair, x);
    Operand b[w / 2];
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) set_pair(b[j], x[2 * j], x[2 * j + 1]);
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
#pragma clang loop unroll(full)
      for (int t = 0; t < TILE_ROWS; ++t) {
        multiply_add(acc[t * (LENGTH / 8) + D0 / 8 + j], a[t], b[j]);
      }
    }
    Next::multiply_rows(row, base, at, a, acc);
  }

  static METAL_FUNC void store_rows(device RESULT* row,
                                    int base,
                                    Lane at,
                                    float factor,
                                    Stored stored,
                                    thread Accumulator* from) {
    RESULT_OPERAND x[w];
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
      x[2 * j] = RESULT_OPERAND(from[D0 / 8 + j].thread_elements()[0] * factor);
      x[2 * j + 1] =
          RESULT_OPERAND(from[D0 / 8 + j].thread_elements()[1] * factor);
    }
    add_stored<w, DIM, ragged>(row, base + D0 + w * at.pair, stored, x);
    store_row<w, DIM, ragged>(row, base + D0 + w * at.pair, x);
    Next::store_rows(row, base, at, factor, stored, from);
  }

  // Unrounded, for a sum that another kernel finishes.
  static METAL_FUNC void store_floats(device float* row,
                                      int base,
                                      Lane at,
                                      thread Accumulator* from) {
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
      int d = base + D0 + w * at.pair + 2 * j;
      if (d < DIM) row[d] = from[D0 / 8 + j].thread_elements()[0];
      if (d + 1 < DIM) row[d + 1] = from[D0 / 8 + j].thread_elements()[1];
    }
    Next::store_floats(row, base, at, from);
  }

  static METAL_FUNC void scale(thread Accumulator* acc, float factor) {
#pragma clang loop unroll(full)
    for (int j = 0; j < w / 2; ++j) {
      acc[D0 / 8 + j].thread_elements()[0] *= factor;
      acc[D0 / 8 + j].thread_elements()[1] *= factor;
    }
    Next::scale(acc, factor);
  }
};

template <int DIM, int LENGTH>
struct Spread<DIM, LENGTH, LENGTH> {
  static METAL_FUNC void load_rows(device const ELEM*,
                                   int,
                                   Lane,
                                   thread Operand*) {}
  static METAL_FUNC void load_columns(
      device const ELEM*, device const ELEM*, int, Lane, thread Operand*) {}
  static METAL_FUNC void multiply_rows(device const ELEM*,
                                       int,
                                       Lane,
                                       thread const Operand*,
                                       thread Accumulator*) {}
  static METAL_FUNC void store_rows(
      device RESULT*, int, Lane, float, Stored, thread Accumulator*) {}
  static METAL_FUNC void store_floats(device float*,
                                      int,
                                      Lane,
                                      thread Accumulator*) {}
  static METAL_FUNC void scale(thread Accumulator*, float) {}
};
