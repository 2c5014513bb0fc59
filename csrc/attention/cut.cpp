// csrc/attention/cut.cpp: what launches cost, from above, and how they are cut.
#include "attention/cut.h"

#include <algorithm>

#include "device/longest.h"

namespace orchard::attention {
namespace {

using device::Size3;

// The slowest GPU that the kernels run on, M1 with 7 of its 8 cores, by the
// figures of orchard_ops/_perf/chips.py: each core has four schedulers, and
// room for 384 threads with as many registers as they can have.
constexpr int64_t kCores = 7;
constexpr double kHertz = 1.278e9;
constexpr double kCyclesPerSecond = 4 * kCores * kHertz;
constexpr int64_t kThreadsPerCore = 384;

// Cycles of one scheduler.  A matrix multiply takes 17, of float32 18, and
// kernels reach a share of 1 and 0.8 of the issue rate (docs/benchmarks.md); in
// float32 and large heads they wait for L2 longer than that.  The rest is what
// a score costs a simdgroup besides: arithmetic, loads, shuffles, barriers.
// tests/perf/test_launches.py compares both with the model, tile by tile.
constexpr double kMultiply2 = 20.0, kMultiply4 = 34.0;
constexpr double kRest = 1.3;
// Spilled gradients come from memory, at 54 GB a second.
constexpr double kSpilledByte = 0.7;
// The model knows none of what follows.  By the instructions in the text, for
// each of mask, slopes, softcap and dropout, of which the last is the dearest.
constexpr double kFeature = 2.5;
// A fragment of spilled gradients that is added to a mask's: 500 cycles from
// load to load, while each scheduler has two simdgroups to wait for.
constexpr double kAddedScore = 4.0;

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Products of a score with q or k, and with v or grad_out.
struct Products {
  int64_t keys, values;
};

Products products_of(Kernel kernel) {
  switch (kernel) {
    case Kernel::backward_dkdv:
      return {2, 2};
    case Kernel::backward_dq:
      return {2, 1};
    case Kernel::backward_dq_spilled:
      return {1, 0};
    default:
      return {1, 1};
  }
}

// Cycles of one scheduler for a score of a tile, in all its slices.
double score_cycles(const Specialisation& s) {
  if (s.kernel == Kernel::backward_dbias_spilled) return kAddedScore;
  const int slices = s.tile.slices;
  const auto fragments = [slices](int64_t dim) {
    return slices * divide_up(dim, int64_t{8} * slices);
  };
  const Products products = products_of(s.kernel);
  const int64_t multiplies = products.keys * fragments(s.head_dim) +
                             products.values * fragments(s.head_dim_v);
  int features = 0;
  for (const Feature feature :
       {Feature::mask, Feature::slopes, Feature::softcap, Feature::dropout}) {
    features += s.features.has(feature) ? 1 : 0;
  }
  const double multiply =
      element_bytes(s.operand) == 2 ? kMultiply2 : kMultiply4;
  const double cycles = multiply * static_cast<double>(multiplies) / 64.0 +
                        slices * (kRest + kFeature * features);
  if (s.kernel != Kernel::backward_dq_spilled) return cycles;
  return std::max(cycles,
                  kSpilledByte * static_cast<double>(element_bytes(s.dtype)));
}

// Of `length`, what a tile of `tile` sees through the window, which it visits
// in blocks of `block`.  A window that is open on a side may show everything.
int64_t seen(const Problem& problem,
             int64_t length,
             int64_t tile,
             int64_t block) {
  const Settings& settings = problem.settings;
  if (settings.window_left < 0 || settings.window_right < 0) return length;
  if (settings.window_left > length || settings.window_right > length) {
    return length;
  }
  return std::min(
      length, settings.window_left + settings.window_right + tile + 2 * block);
}

// Of a launch that is not cut in its walk.
Walk whole(double row_seconds, int64_t rows) {
  Walk walk;
  walk.row_seconds = row_seconds;
  walk.rows = rows;
  return walk;
}

// A tile of the mask, all tiles of a threadgroup alike.
Walk walk_of_mask(const Specialisation& s,
                  const Problem& problem,
                  double score_seconds) {
  const auto& [batches, heads, rows, columns] = problem.mask_sizes;
  const int64_t tiles = s.tile.simdgroups / s.tile.slices;
  Walk walk;
  walk.heads =
      (batches == 1 ? problem.batch : 1) * (heads == 1 ? problem.heads_q : 1);
  walk.rows = rows == 1 ? problem.len_q : 8 * s.tile.rows;
  walk.row_end = problem.len_q;
  walk.row_unit = rows == 1 ? 8 * s.tile.rows : 0;
  const int64_t width = 8 * s.tile.cols;
  const int64_t across =
      columns == 1 ? divide_up(problem.len_kv, width) * width : width;
  walk.row_seconds = score_seconds * static_cast<double>(tiles * across);
  return walk;
}

// The most threadgroups in a part.
struct Budget {
  int64_t groups;
  int64_t wave;  // that run at once
  double wave_seconds;

  double seconds(int64_t of_groups) const {
    return static_cast<double>(divide_up(of_groups, wave)) * wave_seconds;
  }
};

int64_t wave_of(uint32_t threads) {
  return kCores *
         std::max<int64_t>(1, kThreadsPerCore / static_cast<int64_t>(threads));
}

Budget budget_of(uint32_t threads, const Walk& walk) {
  const int64_t wave = wave_of(threads);
  const double seconds = walk.seconds() * static_cast<double>(wave);
  constexpr double kMost = 1e9;  // waves; no grid has more
  const double waves =
      seconds > 0.0 ? std::min(device::longest_seconds() / seconds, kMost)
                    : kMost;
  return {std::max<int64_t>(1, static_cast<int64_t>(waves)) * wave, wave,
          seconds};
}

// The fewest even parts of at most `most`.
int64_t even_part(int64_t total, int64_t most) {
  most = std::clamp<int64_t>(most, 1, total);
  return divide_up(total, divide_up(total, most));
}

// Boxes of at most so many threadgroups: planes, else rows of one, else a part
// of a row.
Pieces boxes(const Size3& grid, int64_t groups) {
  const int64_t x = grid[0], y = grid[1], z = grid[2];
  const auto part_x = static_cast<uint32_t>(even_part(x, groups));
  const auto part_y = static_cast<uint32_t>(even_part(y, groups / x));
  const auto part_z = static_cast<uint32_t>(even_part(z, groups / (x * y)));
  Pieces found;
  for (uint32_t k = 0; k < grid[2]; k += part_z) {
    for (uint32_t j = 0; j < grid[1]; j += part_y) {
      for (uint32_t i = 0; i < grid[0]; i += part_x) {
        Piece piece;
        piece.origin = {i, j, k};
        piece.size = {std::min(part_x, grid[0] - i),
                      std::min(part_y, grid[1] - j),
                      std::min(part_z, grid[2] - k)};
        found.push_back(piece);
      }
    }
  }
  return found;
}

// The parts of one box's walk: heads, or rows of one head.
void add_walk(const Piece& box, const Walk& walk, int64_t wave, Pieces& found) {
  const double row = walk.row_seconds * static_cast<double>(wave);
  const double most = device::longest_seconds() / row;  // rows
  const double most_heads = most / static_cast<double>(walk.rows);
  const bool is_in_heads = most_heads >= 1.0 || walk.row_unit == 0;
  const int64_t heads =
      is_in_heads ? even_part(walk.heads, static_cast<int64_t>(most_heads)) : 1;
  int64_t rows = walk.row_end;
  if (!is_in_heads) {
    const auto units =
        static_cast<int64_t>(most / static_cast<double>(walk.row_unit));
    rows = walk.row_unit *
           even_part(divide_up(walk.row_end, walk.row_unit), units);
  }
  for (int64_t head = 0; head < walk.heads; head += heads) {
    for (int64_t at = 0; at < walk.row_end; at += rows) {
      Piece piece = box;
      piece.head = head;
      piece.head_end = std::min(head + heads, walk.heads);
      piece.row = at;
      piece.row_end = std::min(at + rows, walk.row_end);
      piece.is_last =
          piece.head_end == walk.heads && piece.row_end == walk.row_end;
      piece.seconds = row * static_cast<double>((piece.head_end - head) *
                                                std::min(rows, walk.rows));
      found.push_back(piece);
    }
  }
}

int64_t count(const Size3& size) {
  return int64_t{size[0]} * size[1] * size[2];
}

bool is_long(uint32_t threads, const Walk& walk) {
  const bool can_be_cut =
      walk.heads > 1 ? walk.row_end > 0
                     : walk.row_unit > 0 && walk.row_end > walk.row_unit;
  return can_be_cut &&
         budget_of(threads, walk).wave_seconds > device::longest_seconds();
}

}  // namespace

Walk walk_of(const Specialisation& s, const Problem& problem, int64_t columns) {
  const Tile& tile = s.tile;
  const double score_seconds = score_cycles(s) / kCyclesPerSecond;
  switch (s.kernel) {
    // They read each tensor once: what takes half a second fits no memory of
    // such a GPU.
    case Kernel::backward_prepare:
    case Kernel::combine:
      return {};
    case Kernel::backward_dkdv: {
      const int64_t across = tile.cols_per_threadgroup();
      Walk walk;
      walk.row_seconds = score_seconds * static_cast<double>(across);
      walk.heads = problem.heads_q / problem.heads_kv;
      walk.rows = seen(problem, problem.len_q, across, 8 * tile.rows);
      walk.row_end = problem.len_q;
      walk.row_unit = 8 * tile.rows;
      return walk;
    }
    case Kernel::backward_dbias:
    case Kernel::backward_dbias_spilled:
      return walk_of_mask(s, problem, score_seconds);
    case Kernel::decode: {
      const int64_t tiles = tile.simdgroups / tile.slices;
      const int64_t share = divide_up(problem.len_kv, problem.cache.splits);
      return whole(score_seconds * static_cast<double>(share + 8 * tile.cols),
                   tiles * 8 * tile.rows);
    }
    case Kernel::forward:
    case Kernel::backward_dq:
    case Kernel::backward_dq_spilled:
      break;
  }
  const int64_t rows = tile.rows_per_threadgroup();
  return whole(score_seconds * static_cast<double>(
                                   seen(problem, columns, rows, 8 * tile.cols)),
               rows);
}

bool is_walk_cut(const Specialisation& s, const Problem& problem) {
  return is_long(s.tile.threads(), walk_of(s, problem, problem.len_kv));
}

Pieces cut(const Size3& grid, uint32_t threads, const Walk& walk) {
  const Budget budget = budget_of(threads, walk);
  Pieces found;
  for (const Piece& box : boxes(grid, budget.groups)) {
    if (is_long(threads, walk)) {
      add_walk(box, walk, budget.wave, found);
      continue;
    }
    found.push_back(box);
    found.back().head_end = walk.heads;
    found.back().row_end = walk.row_end;
    found.back().seconds = budget.seconds(count(box.size));
  }
  return found;
}

int64_t walk_sums_bytes(const Specialisation& s, const Pieces& pieces) {
  const Tile& tile = s.tile;
  const auto fragments = [&](int64_t dim) {
    return tile.cols * divide_up(dim, int64_t{8} * tile.slices);
  };
  const int64_t held =
      s.kernel == Kernel::backward_dkdv
          ? fragments(s.head_dim) + fragments(s.head_dim_v) + 1
          : (s.dtype == DType::float32 ? 2 * tile.rows * tile.cols + 1
                                       : tile.rows * tile.cols);
  int64_t groups = 0;
  for (const Piece& piece : pieces) {
    groups = std::max(groups, count(piece.size));
  }
  return groups * tile.simdgroups * held * 64 *
         static_cast<int64_t>(sizeof(float));
}

}  // namespace orchard::attention
