// csrc/attention/tiles.h: how much of the scores a simdgroup holds, by kernel,
// element size and head size.
#pragma once

#include <cstdint>
#include <optional>

#include "attention/kernels.h"

namespace orchard::attention {

struct Tile {
  int max_head_dim;  // the row serves head sizes up to this
  int rows;          // 8x8 fragments of scores per simdgroup, along rows
  int cols;          // ... and along columns
  int simdgroups;    // per threadgroup
  int slices;        // simdgroups that share a tile, each a slice of head_dim

  int rows_per_threadgroup() const { return 8 * rows * simdgroups / slices; }
  int cols_per_threadgroup() const { return 8 * cols * simdgroups / slices; }
  bool operator==(const Tile&) const = default;
  uint32_t threads() const { return static_cast<uint32_t>(32 * simdgroups); }
};

struct Choices;  // of attention/choices.h

// Where a tile is looked for: first among what was chosen on the user's GPU, if
// anything was, then in the tables of its class.
struct Tables {
  Tables(device::Family family, const Choices* own = nullptr)
      : family(family), own(own) {}
  device::Family family;
  const Choices* own;
};

// What was chosen, or the first row of the table of a class of GPU and kernel
// that is large enough.
const Tile& choose_tile(const Tables& tables,
                        Kernel kernel,
                        DType dtype,
                        int64_t largest_head_dim);

// The type of the matrix unit's operands: that of the elements, or float32 for
// bfloat16 on class A, which has no arithmetic for it (tile/promoted.h).
DType operand_type(device::Family family, DType dtype);

// Whether a backward that keeps the gradients of the scores is predicted, by
// class of GPU, to be faster than one that computes them twice.
bool spill_is_faster(device::Family family,
                     DType dtype,
                     int64_t largest_head_dim);

// The tile of a decoding step: of one fragment of rows, or of more the
// forward's.  No block of columns goes across pages, and where simdgroups share
// a tile, there is one a threadgroup, since tiles walk parts of different
// lengths.
Tile decode_tile(const Tables& tables,
                 DType dtype,
                 int64_t largest_head_dim,
                 int64_t rows,
                 int64_t page_size);

// How many simdgroups may share a tile.  Beyond four, a threadgroup has more
// than 128 threads, all of which wait at each barrier: for heads that need it.
int most_slices(int64_t largest_head_dim);

// The simdgroups of a threadgroup by slices of head_dim: 128 threads, 192 for
// three slices, and beyond four a tile each.  0: not so many slices.
int simdgroups_for(int slices);

// Threadgroup memory in which slices add up their fragments of scores, and how
// much of it leaves room for two threadgroups.
int64_t exchanged_bytes(Kernel kernel, const Tile& tile);
inline constexpr int64_t kMostExchangedBytes = 20 * 1024;

// The next tile with fewer registers a thread, for a kernel of which no
// pipeline could be made: one fragment of scores, then more slices of head_dim.
// Nothing when no tile has fewer.
std::optional<Tile> smaller_tile(Kernel kernel,
                                 const Tile& tile,
                                 int64_t largest_head_dim);

}  // namespace orchard::attention
