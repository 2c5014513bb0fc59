// csrc/attention/choices.h: what measurements on a user's GPU chose, before the
// tables of tiles.cpp: tiles, scratch and splits, by dtype and head size.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/kernels.h"
#include "attention/tiles.h"

namespace orchard::attention {

struct Choices {
  // The head size of each is the larger of q's and v's, and it is for that one
  // alone; a tile has it as max_head_dim.
  struct TileRow {
    Kernel kernel;
    DType dtype;
    Tile tile;
  };
  struct NumberRow {
    DType dtype;
    int64_t head_dim;
    int64_t number;
  };

  std::vector<TileRow> tiles;
  std::vector<NumberRow> scratch;       // bytes; 0: recompute (spill.h)
  std::vector<NumberRow> threadgroups;  // that decoding steps are split into

  // Null if nothing was chosen.
  const Tile* tile(Kernel kernel, DType dtype, int64_t head_dim) const;
  std::optional<int64_t> scratch_of(DType dtype, int64_t head_dim) const;
  std::optional<int64_t> threadgroups_of(DType dtype, int64_t head_dim) const;
};

// Reads lines such as
//   tile forward float16 64 2 4 4 1      (rows, cols, simdgroups, slices)
//   scratch float16 64 276824064
//   threadgroups float16 128 256
//   route float16 64 causal 1 11 11 pytorch    (orchard_ops/_tune/routes.py)
// of which '#' begins a remark.  Error(invalid_problem) names the line that is
// none, or whose tile the kernels could not run.
Choices read_choices(device::Family family, std::string_view text);

// The word before a tile of a kernel; null: it has no tiles of its own.
const char* word_of(Kernel kernel);
// Error(invalid_problem) if no kernel with tiles of its own is called so.
Kernel kernel_called(std::string_view word);
DType dtype_called(std::string_view word);

// Why no kernel is to run with a tile, or "".
std::string reason_against_tile(Kernel kernel,
                                int64_t head_dim,
                                const Tile& tile);

// What a device's launches are planned by: this thread's trial if it has one,
// else what was set for the device.
Tables tables_of(const device::Device& device);

// Whether choices, even empty ones, were set for a device as it is.
bool has_choices(const device::Device& device);
void set_choices(const device::Device& device, Choices choices);
// For launches of this thread alone; none ends it.
void try_choices(std::optional<Choices> choices);

}  // namespace orchard::attention
