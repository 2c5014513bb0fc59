// csrc/attention/spill.cpp: cuts the scores into chunks that fit the scratch:
// whole key heads if they can be, else columns of one.
#include "attention/spill.h"

#include <algorithm>

#include "attention/choices.h"
#include "attention/compiled.h"
#include "attention/cut.h"
#include "attention/tiles.h"

namespace orchard::attention {
namespace {

// dq's sums cost a chunk 8 bytes of traffic for each element of dq, a score 4:
// below this many columns they would be most of it.
constexpr int64_t kLeastColumns = 1024;

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// How much each takes if as few as possible share `total` evenly: at most
// `most`, and a multiple of `unit`.
int64_t even_share(int64_t total, int64_t most, int64_t unit) {
  const int64_t shares = (total + most - 1) / most;
  return round_up((total + shares - 1) / shares, unit);
}

constexpr int64_t kFragment = 64;  // scores

int64_t fragment_bytes(const Problem& problem) {
  return kFragment * element_bytes(problem.dtype);
}

// Beside each fragment; only half's range needs one (kernels/tile/unit.h).
int64_t unit_bytes(const Problem& problem) {
  return problem.dtype == DType::float16 ? sizeof(float) : 0;
}

// Fragments of the scores of one key head, `columns` wide.
int64_t pair_fragments(const Problem& problem,
                       const Tile& tile,
                       int64_t columns) {
  const int64_t group = problem.heads_q / problem.heads_kv;
  return group * round_up(problem.len_q, 8 * tile.rows) *
         round_up(columns, 8 * tile.cols) / kFragment;
}

int64_t pair_bytes(const Problem& problem, const Tile& tile, int64_t columns) {
  return pair_fragments(problem, tile, columns) *
         (fragment_bytes(problem) + unit_bytes(problem));
}

// Accumulators of backward_dq_spilled for the query heads of one key head.
int64_t sums_bytes_of_pair(const Problem& problem, const Tile& tile) {
  const int64_t group = problem.heads_q / problem.heads_kv;
  const int64_t slice = round_up(problem.head_dim, 8 * tile.slices);
  return group * round_up(problem.len_q, tile.rows_per_threadgroup()) * slice *
         static_cast<int64_t>(sizeof(float));
}

int64_t default_scratch(const device::Limits& limits) {
  const auto share =
      static_cast<int64_t>(limits.working_set_bytes) / kScratchShare;
  return share > 0 ? std::min(kDefaultScratch, share) : kDefaultScratch;
}

// The columns of a chunk: all, or what fits of one key head; 0 if too few do.
int64_t columns_of_chunk(const Problem& problem,
                         const Tile& tile,
                         int64_t max_bytes) {
  const int64_t unit = tile.cols_per_threadgroup();
  if (pair_bytes(problem, tile, problem.len_kv) <= max_bytes) {
    return round_up(problem.len_kv, unit);
  }
  const int64_t most = max_bytes / pair_bytes(problem, tile, unit) * unit;
  return most < kLeastColumns ? 0 : even_share(problem.len_kv, most, unit);
}

// No more elements of one head are kept, whatever the tile.
int64_t most_spilled(const Problem& problem, int64_t max_bytes) {
  constexpr int64_t kAboveAnyTile = 1024;
  const int64_t group = problem.heads_q / problem.heads_kv;
  return std::min(max_bytes / element_bytes(problem.dtype) / group,
                  round_up(problem.len_q, kAboveAnyTile) *
                      round_up(problem.len_kv, kAboveAnyTile));
}

// The kernel that reads what `dkdv` writes: its tile divides that one's, so
// that every fragment it reads was written.
const Compiled& reader_of(device::Device& device,
                          const Problem& problem,
                          const Tensors& tensors,
                          const Compiled& dkdv,
                          int64_t spilled,
                          bool is_summed) {
  Specialisation s = specialise(
      tables_of(device), problem, tensors, Kernel::backward_dq_spilled, spilled,
      is_summed ? Set<Feature>{Feature::summed} : Set<Feature>{});
  const Tile& written = dkdv.specialisation.tile;  // powers of two, all
  s.tile.rows = std::min(s.tile.rows, written.rows);
  s.tile.cols = std::min(s.tile.cols, written.cols);
  return compiled(device, s);
}

// Each: all rows of some key heads, and some or all of their columns.
void add_chunks(const Problem& problem,
                const Tile& tile,
                int64_t columns,
                int64_t pairs_each,
                Spill& spill) {
  const int64_t pairs = problem.batch * problem.heads_kv;
  for (int64_t pair = 0; pair < pairs; pair += pairs_each) {
    for (int64_t column = 0; column < problem.len_kv; column += columns) {
      const int64_t end = std::min(column + columns, problem.len_kv);
      const SpillChunk params{
          static_cast<int32_t>(pair),
          static_cast<int32_t>(column),
          static_cast<int32_t>(end),
          static_cast<int32_t>(round_up(problem.len_q, 8 * tile.rows) / 8),
          static_cast<int32_t>(round_up(end - column, 8 * tile.cols) / 8),
          end == problem.len_kv ? 1 : 0};
      spill.chunks.push_back({params, std::min(pairs_each, pairs - pair)});
    }
  }
}

}  // namespace

int64_t scratch_by_default(const device::Device& device,
                           DType dtype,
                           int64_t largest_head_dim) {
  const Tables tables = tables_of(device);
  if (tables.own != nullptr) {
    const auto own = tables.own->scratch_of(dtype, largest_head_dim);
    if (own) return *own;
  }
  return spill_is_faster(tables.family, dtype, largest_head_dim)
             ? default_scratch(device.limits())
             : 0;
}

Spill choose_spill(device::Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   const NeededGradients& needed,
                   int64_t max_bytes) {
  Spill spill;
  if (!needed.dq || !needed.dkdv) return spill;
  const Tables tables = tables_of(device);
  if (max_bytes < 0) {
    max_bytes =
        scratch_by_default(device, problem.dtype, problem.largest_head_dim());
  }
  if (max_bytes == 0) return spill;
  const int64_t spilled = most_spilled(problem, max_bytes);
  const Specialisation writer =
      specialise(tables, problem, tensors, Kernel::backward_dkdv, spilled);
  // Not compiled where it will not be used.
  if (columns_of_chunk(problem, writer.tile, max_bytes) == 0) return spill;
  spill.dkdv = &compiled(device, writer);
  const Tile& tile = spill.dkdv->specialisation.tile;
  const int64_t columns = columns_of_chunk(problem, tile, max_bytes);
  if (columns == 0) return spill;
  // What cannot be one walk does not leave ds behind.
  if (is_walk_cut(spill.dkdv->specialisation, problem)) return spill;
  const int64_t widest = std::min(columns, problem.len_kv);
  const int64_t each = pair_bytes(problem, tile, widest);
  const int64_t pairs_each =
      even_share(problem.batch * problem.heads_kv,
                 std::max<int64_t>(max_bytes / each, 1), 1);
  add_chunks(problem, tile, columns, pairs_each, spill);
  const int64_t fragments = pairs_each * pair_fragments(problem, tile, widest);
  spill.spill_bytes = fragments * fragment_bytes(problem);
  spill.units_bytes = fragments * unit_bytes(problem);
  // float32 sums have their place in dq itself.
  const bool is_summed =
      columns < problem.len_kv && problem.dtype != DType::float32;
  spill.dq =
      &reader_of(device, problem, tensors, *spill.dkdv, spilled, is_summed);
  if (is_summed) {
    spill.sums_bytes =
        pairs_each * sums_bytes_of_pair(problem, spill.dq->specialisation.tile);
  }
  // A softcap changes the gradient between the bias and q.k.
  spill.serves_dbias = needed.dbias && spill.chunks.size() == 1 &&
                       problem.settings.softcap == 0.0;
  if (spill.serves_dbias) {
    const Specialisation reader = specialise(
        tables, problem, tensors, Kernel::backward_dbias_spilled, spilled);
    spill.serves_dbias = !is_walk_cut(reader, problem);
  }
  return spill;
}

}  // namespace orchard::attention
