// csrc/attention/plan.cpp: parameters, and launches by the table of kernels.
#include "attention/plan.h"

#include <algorithm>
#include <cmath>

#include "attention/choices.h"
#include "attention/compiled.h"
#include "attention/cut.h"

namespace orchard::attention {
namespace {

using device::Access;
using device::Argument;
using device::BufferView;
using device::Device;
using device::Launch;

Strides kernel_strides(const Layout& layout, const Problem& problem) {
  // Packed sequences share one batch entry.
  return {problem.is_packed ? 0 : layout.strides[0], layout.strides[1],
          layout.strides[2]};
}

// The seed, threshold and factor of tile/dropout.h.
void set_dropout(const Problem& problem, AttentionParams& p) {
  p.seed_low = static_cast<uint32_t>(problem.seed);
  p.seed_high = static_cast<uint32_t>(problem.seed >> 32);
  p.drop_below = drop_below(problem.settings.dropout_p);
  p.keep_scale = static_cast<float>(65536.0 / (65536.0 - p.drop_below));
}

void set_scores(const Problem& problem, AttentionParams& p) {
  constexpr double kLog2e = 1.4426950408889634;
  const Settings& settings = problem.settings;
  // Scores are in base e with a bias, else in base 2 (tile/score.h).
  const double unit = problem.mask == MaskKind::bias ? 1.0 : kLog2e;
  p.scale = static_cast<float>(settings.scale);
  p.score_scale = static_cast<float>(settings.scale * unit);
  if (settings.softcap > 0.0) {
    p.softcap_in = static_cast<float>(settings.scale / settings.softcap);
    p.softcap_out = static_cast<float>(settings.softcap * unit);
  }
}

void set_mask(const Problem& problem, const Layout& mask, AttentionParams& p) {
  const auto stride = [&](size_t axis) {
    return problem.mask_sizes[axis] == 1 ? 0 : mask.strides[axis];
  };
  p.mask = {stride(0), stride(1), stride(2)};
  p.mask_column = stride(3);
  p.mask_batches = static_cast<int32_t>(problem.mask_sizes[0]);
  p.mask_heads = static_cast<int32_t>(problem.mask_sizes[1]);
  p.mask_rows = static_cast<int32_t>(problem.mask_sizes[2]);
  p.mask_columns = static_cast<int32_t>(problem.mask_sizes[3]);
}

// Where a part stands in the whole; returns the farthest that one of its rows
// may be from one of its columns.
int64_t set_part(const Problem& problem, AttentionParams& p) {
  if (!problem.settings.part) return problem.len_q + problem.len_kv;
  const Part& part = *problem.settings.part;
  p.q_offset = static_cast<int32_t>(part.q_offset);
  p.k_offset = static_cast<int32_t>(part.k_offset);
  p.part_rows = static_cast<int32_t>(problem.rows_per_head);
  p.part_columns = static_cast<int32_t>(problem.columns_per_head);
  p.head_offset = static_cast<int32_t>(part.head_offset);
  p.heads_total = static_cast<int32_t>(part.heads_total);
  return part.q_offset + problem.rows_per_head + part.k_offset +
         problem.columns_per_head;
}

AttentionParams parameters(const Problem& problem, const Tensors& tensors) {
  AttentionParams p{};
  p.q = kernel_strides(tensors.q, problem);
  p.k = kernel_strides(tensors.k, problem);
  p.v = kernel_strides(tensors.v, problem);
  p.out = kernel_strides(tensors.out, problem);
  p.grad_out = kernel_strides(tensors.grad_out, problem);
  p.dq = kernel_strides(tensors.dq, problem);
  p.dk = kernel_strides(tensors.dk, problem);
  p.dv = kernel_strides(tensors.dv, problem);
  p.rows = {problem.is_packed ? 0 : problem.heads_q * problem.rows_per_head,
            problem.rows_per_head, 1};
  p.batch = static_cast<int32_t>(problem.batch);
  p.heads_q = static_cast<int32_t>(problem.heads_q);
  p.group = static_cast<int32_t>(problem.heads_q / problem.heads_kv);
  p.len_q = static_cast<int32_t>(problem.len_q);
  p.len_kv = static_cast<int32_t>(problem.len_kv);
  p.is_bottom_right = problem.settings.is_bottom_right ? 1 : 0;
  // No row is farther from a column than this: an open window.
  const int64_t open = set_part(problem, p);
  const auto window = [open](int64_t size) {
    return static_cast<int32_t>(size < 0 ? open : std::min(size, open));
  };
  p.window_left = window(problem.settings.window_left);
  p.window_right = window(problem.settings.window_right);
  p.slopes_batch = problem.has_batch_slopes ? p.heads_q : 0;
  p.splits = static_cast<int32_t>(problem.cache.splits);
  p.page_size = static_cast<int32_t>(problem.cache.page_size);
  p.table_row = static_cast<int32_t>(tensors.table_row);
  p.cache_entries = static_cast<int32_t>(problem.cache.entries);
  set_scores(problem, p);
  set_mask(problem, tensors.mask, p);
  set_dropout(problem, p);
  return p;
}

device::Size3 grid_of(const Specialisation& s,
                      const Problem& problem,
                      const Chunk* chunk) {
  const auto grid = row_of(s.kernel).grid;
  if (chunk == nullptr) return grid(s.tile, problem);
  Problem of_chunk = problem;
  of_chunk.batch = 1;
  of_chunk.heads_kv = chunk->pairs;
  of_chunk.heads_q = chunk->pairs * (problem.heads_q / problem.heads_kv);
  of_chunk.len_kv = chunk->params.column_end - chunk->params.column0;
  return grid(s.tile, of_chunk);
}

template <class T>
Argument bytes_of(uint32_t slot, const T& value) {
  return {slot, Access::read, {}, std::as_bytes(std::span<const T>(&value, 1))};
}

const AttentionParams& params_of(const Piece& piece, Plan& plan) {
  AttentionParams& p = plan.pieces.emplace_back(plan.params);
  p.origin_x = static_cast<int32_t>(piece.origin[0]);
  p.origin_y = static_cast<int32_t>(piece.origin[1]);
  p.origin_z = static_cast<int32_t>(piece.origin[2]);
  p.walk_head = static_cast<int32_t>(piece.head);
  p.walk_head_end = static_cast<int32_t>(piece.head_end);
  p.walk_row = static_cast<int32_t>(piece.row);
  p.walk_row_end = static_cast<int32_t>(piece.row_end);
  p.is_walk_over = piece.is_last ? 1 : 0;
  return p;
}

void add_piece(const Piece& piece,
               const AttentionParams& params,
               const Compiled& compiled,
               Launch launch,
               Plan& plan) {
  launch.arguments.push_back(bytes_of(SLOT_PARAMS, params));
  launch.threadgroups = piece.size;
  launch.seconds = piece.seconds;
  plan.launches.push_back(std::move(launch));
  plan.kernels.push_back(&compiled);
}

// The launch, once for each piece.
void add_pieces(const Pieces& pieces,
                const Compiled& compiled,
                Launch launch,
                Plan& plan) {
  const Specialisation& s = compiled.specialisation;
  if (s.features.has(Feature::carried)) {
    plan.walk_sums_bytes =
        std::max(plan.walk_sums_bytes, walk_sums_bytes(s, pieces));
  } else if (pieces.size() == 1) {
    add_piece(pieces[0], plan.params, compiled, std::move(launch), plan);
    return;
  }
  for (const Piece& piece : pieces) {
    add_piece(piece, params_of(piece, plan), compiled, launch, plan);
  }
}

void add_launch(const Compiled& compiled,
                const Problem& problem,
                const Tensors& tensors,
                Plan& plan,
                const Chunk* chunk = nullptr) {
  const Specialisation& s = compiled.specialisation;
  Slots slots = compiled.slots;
  // float32 sums begin where those of the chunks before have ended.
  if (chunk != nullptr && s.dtype == DType::float32 &&
      chunk->params.column0 > 0 && slots.written.has(SLOT_DQ)) {
    slots.read.add({SLOT_DQ});
  }
  Launch launch;
  launch.pipeline = compiled.pipeline;
  for (const SlotRow& row : slot_rows()) {
    if (!slots.has(row.slot)) continue;
    const Access access = !slots.written.has(row.slot) ? Access::read
                          : slots.read.has(row.slot)   ? Access::read_write
                                                       : Access::write;
    launch.arguments.push_back({row.slot, access, row.view_of(tensors), {}});
  }
  if (chunk != nullptr) {
    launch.arguments.push_back(bytes_of(SLOT_CHUNK, chunk->params));
  }
  launch.threads_per_threadgroup = {s.tile.threads(), 1, 1};
  const Pieces pieces =
      cut(grid_of(s, problem, chunk), s.tile.threads(),
          walk_of(s, problem,
                  chunk == nullptr
                      ? problem.len_kv
                      : chunk->params.column_end - chunk->params.column0));
  add_pieces(pieces, compiled, std::move(launch), plan);
}

// The text that a launch needs: another where its walk must be cut.
// `spilled`: elements of ds that a spilling backward keeps of a head.
void add_launch(Device& device,
                const Problem& problem,
                const Tensors& tensors,
                Kernel kernel,
                Plan& plan,
                int64_t spilled = 0,
                const Chunk* chunk = nullptr) {
  const auto with = [&](Set<Feature> planned) -> const Compiled& {
    return compiled(device, specialise(tables_of(device), problem, tensors,
                                       kernel, spilled, planned));
  };
  const Compiled& whole = with({});
  const bool is_cut = is_walk_cut(whole.specialisation, problem);
  add_launch(is_cut ? with({Feature::carried}) : whole, problem, tensors, plan,
             chunk);
}

// Each chunk's ds is used up before the next overwrites it.
void add_spilled(Device& device,
                 const Problem& problem,
                 const Tensors& tensors,
                 const Spill& spill,
                 Plan& plan) {
  plan.chunks = spill.chunks;
  for (const Chunk& chunk : plan.chunks) {
    add_launch(*spill.dkdv, problem, tensors, plan, &chunk);
    add_launch(*spill.dq, problem, tensors, plan, &chunk);
    if (spill.serves_dbias) {
      const int64_t spilled = int64_t{64} * chunk.params.row_fragments *
                              chunk.params.column_fragments;
      add_launch(device, problem, tensors, Kernel::backward_dbias_spilled, plan,
                 spilled, &chunk);
    }
  }
}

}  // namespace

void bind_walk_sums(Plan& plan, const BufferView& scratch) {
  for (Launch& launch : plan.launches) {
    for (Argument& argument : launch.arguments) {
      if (argument.index == SLOT_WALK_SUMS) argument.view = scratch;
    }
  }
}

void plan_forward(Device& device,
                  const Problem& problem,
                  const Tensors& tensors,
                  Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::forward, plan);
}

void plan_backward(Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   const Spill& spill,
                   Plan& plan) {
  plan.params = parameters(problem, tensors);
  const auto add = [&](Kernel kernel) {
    add_launch(device, problem, tensors, kernel, plan);
  };
  add(Kernel::backward_prepare);
  if (spill.is_used()) {
    add_spilled(device, problem, tensors, spill, plan);
  } else {
    if (tensors.dk.view.handle != nullptr) add(Kernel::backward_dkdv);
    if (tensors.dq.view.handle != nullptr) add(Kernel::backward_dq);
  }
  if (tensors.dbias.handle != nullptr && !spill.serves_dbias) {
    add(Kernel::backward_dbias);
  }
}

int64_t decode_splits(const Device& device, const Problem& problem) {
  constexpr int64_t kThreadgroups = 128, kLeastKeys = 64, kMostKeys = 1024;
  const Choices* const own = tables_of(device).own;
  const int64_t threadgroups =
      own == nullptr
          ? kThreadgroups
          : own->threadgroups_of(problem.dtype, problem.largest_head_dim())
                .value_or(kThreadgroups);
  const int64_t row_tiles = (problem.rows_of_group() + 15) / 16;
  const int64_t side_by_side = problem.batch * problem.heads_kv * row_tiles;
  const int64_t most = std::max<int64_t>(problem.len_kv / kLeastKeys, 1);
  // A long sum in a row is off by more roundings than float32 users expect.
  const int64_t least = problem.dtype == DType::float32
                            ? (problem.len_kv + kMostKeys - 1) / kMostKeys
                            : 1;
  return std::clamp<int64_t>(threadgroups / side_by_side, least,
                             std::max(most, least));
}

void plan_decode(Device& device,
                 const Problem& problem,
                 const Tensors& tensors,
                 Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::decode, plan);
  add_launch(device, problem, tensors, Kernel::combine, plan);
}

}  // namespace orchard::attention
