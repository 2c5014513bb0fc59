// csrc/attention/tiles.cpp: the tile tables, data only.  Untuned: rows follow
// the register budgets of docs/kernels.md; no row has been measured on a chip.
#include "attention/tiles.h"

#include <span>

namespace orchard::attention {
namespace {

// clang-format off
constexpr Tile kForward2[] = {
    // max_head_dim rows cols simdgroups split
    { 64, 2, 4, 4, 1},
    {128, 1, 4, 4, 1},
    {256, 1, 4, 4, 2},
};
constexpr Tile kForward4[] = {
    { 64, 1, 4, 4, 1},
    {128, 1, 2, 4, 1},
    {256, 1, 2, 4, 2},
};
constexpr Tile kDkdv2[] = {
    { 64, 2, 1, 4, 1},
    {128, 2, 1, 4, 2},
    {192, 2, 1, 6, 3},
    {256, 2, 1, 8, 4},
};
constexpr Tile kDkdv4[] = {
    { 64, 1, 1, 4, 1},
    {128, 1, 1, 4, 2},
    {192, 1, 1, 6, 3},
    {256, 1, 1, 8, 4},
};
constexpr Tile kDq2[] = {
    { 64, 1, 4, 4, 1},
    {128, 1, 2, 4, 2},
    {192, 1, 2, 6, 3},
    {256, 1, 2, 8, 4},
};
constexpr Tile kDq4[] = {
    { 64, 1, 2, 4, 1},
    {128, 1, 2, 4, 2},
    {192, 1, 2, 6, 3},
    {256, 1, 2, 8, 4},
};
constexpr Tile kRowEach[] = {  // a simdgroup a row
    {256, 1, 1, 8, 1},
};
// clang-format on

std::span<const Tile> table(Kernel kernel, bool is_two_byte) {
  switch (kernel) {
    case Kernel::forward:
    case Kernel::decode:
      return is_two_byte ? std::span<const Tile>(kForward2) : kForward4;
    case Kernel::backward_dkdv:
      return is_two_byte ? std::span<const Tile>(kDkdv2) : kDkdv4;
    case Kernel::backward_dq:
    case Kernel::backward_dbias:  // the same operands and scores
      return is_two_byte ? std::span<const Tile>(kDq2) : kDq4;
    case Kernel::backward_prepare:
    case Kernel::combine:
      break;
  }
  return kRowEach;
}

}  // namespace

const Tile& choose_tile(Kernel kernel, DType dtype, int64_t largest_head_dim) {
  const std::span<const Tile> rows = table(kernel, element_bytes(dtype) == 2);
  for (const Tile& tile : rows) {
    if (largest_head_dim <= tile.max_head_dim) return tile;
  }
  return rows.back();
}

Tile decode_tile(DType dtype,
                 int64_t largest_head_dim,
                 int64_t rows,
                 int64_t page_size) {
  Tile tile = choose_tile(Kernel::decode, dtype, largest_head_dim);
  if (rows <= 8) tile.rows = 1;
  while (page_size > 0 && page_size % (8 * tile.cols) != 0) tile.cols /= 2;
  if (tile.split > 1) tile.simdgroups = tile.split;
  return tile;
}

std::optional<Tile> smaller_tile(const Tile& tile) {
  Tile smaller = tile;
  const int tiles = tile.simdgroups / tile.split;
  if (tiles < 2) return std::nullopt;
  smaller.simdgroups = tiles / 2 * tile.split;
  return smaller;
}

}  // namespace orchard::attention
