// csrc/attention/kernels.cpp: data only, and the grids.
#include "attention/kernels.h"

#include <iterator>

#include "attention/tiles.h"

namespace orchard::attention {
namespace {

using device::Size3;
using enum Feature;

// clang-format off
constexpr FeatureRow kFeatures[] = {
    {window, "HAS_WINDOW", "_window", [](const Problem& p) {
       return p.settings.window_left >= 0 || p.settings.window_right >= 0;
     }, {}},
    // The text and the name say which kind (specialisation.cpp).
    {mask, "MASK", "",
     [](const Problem& p) { return p.mask != MaskKind::none; },
     {{SLOT_MASK}, {}}},
    {slopes, "HAS_SLOPES", "_slopes",
     [](const Problem& p) { return p.has_slopes; }, {{SLOT_SLOPES}, {}}},
    {softcap, "HAS_SOFTCAP", "_softcap",
     [](const Problem& p) { return p.settings.softcap > 0.0; }, {}},
    {sinks, "HAS_SINKS", "_sinks",
     [](const Problem& p) { return p.has_sinks; }, {{SLOT_SINKS}, {}}},
    {dropout, "HAS_DROPOUT", "_dropout",
     [](const Problem& p) { return p.settings.dropout_p > 0.0; }, {}},
    {grad_lse, "HAS_GRAD_LSE", "_gradlse",
     [](const Problem& p) { return p.has_grad_lse; },
     {{SLOT_GRAD_LSE, SLOT_LSE}, {}}},
    {packed, "IS_PACKED", "_packed",
     [](const Problem& p) { return p.is_packed; },
     {{SLOT_STARTS_Q, SLOT_STARTS_KV}, {}}},
    {decode, "IS_DECODE", "",
     [](const Problem& p) { return p.cache.is_used; }, {{SLOT_LENGTHS}, {}}},
    {paged, "IS_PAGED", "_paged",
     [](const Problem& p) { return p.cache.is_paged(); }, {{SLOT_TABLE}, {}}},
    {left_pads, "HAS_LEFT_PADS", "_leftpads",
     [](const Problem& p) { return p.cache.has_left_pads; },
     {{SLOT_LEFT_PADS}, {}}},
    {cache_rows, "HAS_CACHE_ROWS", "_cacherows",
     [](const Problem& p) { return p.cache.has_rows; },
     {{SLOT_CACHE_ROWS}, {}}},
    {partial, "IS_PARTIAL", "_partial",
     [](const Problem& p) { return p.settings.part.has_value(); }, {}},
    {spilling, "SPILLS", "_spilling", nullptr, {{}, {SLOT_SPILL, SLOT_UNITS}}},
    {summed, "IS_SUMMED", "_summed", nullptr, {{SLOT_DQ_SUMS}, {SLOT_DQ_SUMS}}},
    {carried, "IS_CARRIED", "_carried", nullptr,
     {{SLOT_WALK_SUMS}, {SLOT_WALK_SUMS}}},
    {wide, "WIDE_INDEX", "_wide", nullptr, {}},
};
// clang-format on

uint32_t tiles_of(int64_t length, int per_threadgroup) {
  return static_cast<uint32_t>((length + per_threadgroup - 1) /
                               per_threadgroup);
}

Size3 per_query_head(uint32_t tiles, const Problem& p) {
  return {tiles, static_cast<uint32_t>(p.heads_q),
          static_cast<uint32_t>(p.batch)};
}

Size3 per_key_head(uint32_t tiles, const Problem& p) {
  return {tiles, static_cast<uint32_t>(p.heads_kv),
          static_cast<uint32_t>(p.batch)};
}

Size3 over_rows(const Tile& tile, const Problem& p) {
  return per_query_head(tiles_of(p.len_q, tile.rows_per_threadgroup()), p);
}

Size3 over_columns(const Tile& tile, const Problem& p) {
  return per_key_head(tiles_of(p.len_kv, tile.cols_per_threadgroup()), p);
}

Size3 one_row_each(const Tile& tile, const Problem& p) {
  return per_query_head(tiles_of(p.len_q, tile.simdgroups), p);
}

Size3 over_mask(const Tile& tile, const Problem& p) {
  const auto& [batches, heads, rows, columns] = p.mask_sizes;
  return {tiles_of(columns, tile.cols_per_threadgroup()),
          tiles_of(rows, 8 * tile.rows),
          static_cast<uint32_t>(batches * heads)};
}

Size3 over_splits(const Tile& tile, const Problem& p) {
  Size3 grid =
      per_key_head(tiles_of(p.cache.splits, tile.simdgroups / tile.slices), p);
  grid[1] *= tiles_of(p.rows_of_group(), 8 * tile.rows);
  return grid;
}

Size3 one_row_of_group_each(const Tile& tile, const Problem& p) {
  return per_key_head(tiles_of(p.rows_of_group(), tile.simdgroups), p);
}

// clang-format off
constexpr KernelRow kKernels[] = {
    {Kernel::forward, "forward",
     {window, mask, slopes, softcap, sinks, dropout, packed, partial, wide},
     {{SLOT_Q, SLOT_K, SLOT_V}, {SLOT_OUT, SLOT_LSE, SLOT_STATS}},
     TileTable::forward, true, true, over_rows},
    {Kernel::backward_prepare, "backward_prepare",
     {grad_lse, packed, partial},
     {{SLOT_OUT, SLOT_GRAD_OUT}, {SLOT_DELTA}},
     TileTable::row_each, false, true, one_row_each},
    {Kernel::backward_dkdv, "backward_dkdv",
     {window, mask, slopes, softcap, dropout, packed, partial, spilling, carried,
      wide},
     {{SLOT_Q, SLOT_K, SLOT_V, SLOT_GRAD_OUT, SLOT_STATS, SLOT_DELTA},
      {SLOT_DK, SLOT_DV}},
     TileTable::backward_dkdv, true, true, over_columns},
    {Kernel::backward_dq, "backward_dq",
     {window, mask, slopes, softcap, dropout, packed, partial, wide},
     {{SLOT_Q, SLOT_K, SLOT_V, SLOT_GRAD_OUT, SLOT_STATS, SLOT_DELTA},
      {SLOT_DQ}},
     TileTable::backward_dq, true, true, over_rows},
    {Kernel::backward_dq_spilled, "backward_dq_spilled",
     {window, packed, partial, summed, wide},
     {{SLOT_K, SLOT_SPILL, SLOT_UNITS}, {SLOT_DQ}},
     TileTable::backward_dq_spilled, true, true, over_rows},
    {Kernel::backward_dbias, "backward_dbias",  // operands and scores of dq
     {window, mask, slopes, softcap, dropout, partial, carried, wide},
     {{SLOT_Q, SLOT_K, SLOT_V, SLOT_GRAD_OUT, SLOT_STATS, SLOT_DELTA},
      {SLOT_DBIAS}},
     TileTable::backward_dq, true, true, over_mask},
    {Kernel::backward_dbias_spilled, "backward_dbias_spilled",
     {window, mask, partial, wide},
     {{SLOT_SPILL, SLOT_UNITS}, {SLOT_DBIAS}},
     TileTable::row_each, false, false, over_mask},
    {Kernel::decode, "decode",
     {window, slopes, softcap, decode, paged, left_pads, cache_rows, wide},
     {{SLOT_Q, SLOT_K, SLOT_V}, {SLOT_SPLIT_OUT, SLOT_SPLIT_STATS}},
     TileTable::decode, true, true, over_splits},
    {Kernel::combine, "combine",
     {sinks},
     {{SLOT_SPLIT_OUT, SLOT_SPLIT_STATS}, {SLOT_OUT, SLOT_LSE}},
     TileTable::row_each, false, true, one_row_of_group_each},
};
// clang-format on

using Type = SlotRow::Type;

constexpr SlotRow kSlots[] = {
    {SLOT_Q, "q", Type::element, &Tensors::q},
    {SLOT_K, "k", Type::element, &Tensors::k},
    {SLOT_V, "v", Type::element, &Tensors::v},
    {SLOT_OUT, "out", Type::element, &Tensors::out},
    {SLOT_LSE, "lse", Type::float32, &Tensors::lse},
    {SLOT_GRAD_OUT, "grad_out", Type::element, &Tensors::grad_out},
    {SLOT_STATS, "stats", Type::float32, &Tensors::stats},
    {SLOT_DELTA, "delta", Type::float32, &Tensors::delta},
    {SLOT_DQ, "dq", Type::element, &Tensors::dq},
    {SLOT_DK, "dk", Type::element, &Tensors::dk},
    {SLOT_DV, "dv", Type::element, &Tensors::dv},
    {SLOT_PARAMS, "params"},
    {SLOT_MASK, "mask", Type::mask, &Tensors::mask},
    {SLOT_SLOPES, "slopes", Type::float32, &Tensors::slopes},
    {SLOT_SINKS, "sinks", Type::float32, &Tensors::sinks},
    {SLOT_STARTS_Q, "starts_q", Type::int32, &Tensors::starts_q},
    {SLOT_STARTS_KV, "starts_kv", Type::int32, &Tensors::starts_kv},
    {SLOT_DBIAS, "dbias", Type::mask, &Tensors::dbias},
    {SLOT_LENGTHS, "lengths", Type::int32, &Tensors::lengths},
    {SLOT_TABLE, "table", Type::int32, &Tensors::table},
    {SLOT_LEFT_PADS, "left_pads", Type::int32, &Tensors::left_pads},
    {SLOT_CACHE_ROWS, "cache_rows", Type::int32, &Tensors::cache_rows},
    {SLOT_SPLIT_OUT, "split_out", Type::float32, &Tensors::split_out},
    {SLOT_SPLIT_STATS, "split_stats", Type::float32, &Tensors::split_stats},
    {SLOT_SPILL, "spill", Type::element, &Tensors::spill},
    {SLOT_CHUNK, "chunk"},
    {SLOT_DQ_SUMS, "dq_sums", Type::float32, &Tensors::dq_sums},
    {SLOT_GRAD_LSE, "grad_lse", Type::float32, &Tensors::grad_lse},
    {SLOT_UNITS, "units", Type::float32, &Tensors::units},
    {SLOT_WALK_SUMS, "walk_sums", Type::float32, &Tensors::walk_sums},
};

constexpr bool are_in_order() {
  for (size_t i = 0; i < std::size(kSlots); ++i) {
    if (kSlots[i].slot != i) return false;
  }
  for (size_t i = 0; i < std::size(kKernels); ++i) {
    if (static_cast<size_t>(kKernels[i].kernel) != i) return false;
  }
  return true;
}
static_assert(are_in_order(), "rows are found by their number");

}  // namespace

Slots KernelRow::slots_with(Set<Feature> present) const {
  Slots found = slots;
  for (const FeatureRow& row : kFeatures) {
    if (!present.has(row.feature)) continue;
    found.read.add(row.slots.read);
    found.written.add(row.slots.written);
  }
  return found;
}

std::span<const KernelRow> kernel_rows() { return kKernels; }

const KernelRow& row_of(Kernel kernel) {
  return kKernels[static_cast<size_t>(kernel)];
}

std::span<const FeatureRow> feature_rows() { return kFeatures; }

std::span<const SlotRow> slot_rows() { return kSlots; }

}  // namespace orchard::attention
