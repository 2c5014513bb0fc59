// csrc/attention/plan.cpp: parameters, bindings and grids.
#include "attention/plan.h"

#include <algorithm>
#include <cmath>

#include "attention/compiled.h"

namespace orchard::attention {
namespace {

using device::Access;
using device::Argument;
using device::Arguments;
using device::BufferView;
using device::Device;
using device::Launch;
using device::Size3;

// The part of the scores that a launch of a spilling backward works on.
struct Part {
  const SpillChunk* chunk = nullptr;   // none: all of them
  int64_t pairs = 0;                   // key heads
  const Compiled* compiled = nullptr;  // none: found by the problem
};

Strides kernel_strides(const Layout& layout, const Problem& problem) {
  // Packed sequences share one batch entry.
  return {problem.is_packed ? 0 : layout.strides[0], layout.strides[1],
          layout.strides[2]};
}

// The seed, threshold and factor of tile/dropout.h.
void set_dropout(const Problem& problem, AttentionParams& p) {
  p.seed_low = static_cast<uint32_t>(problem.seed);
  p.seed_high = static_cast<uint32_t>(problem.seed >> 32);
  const double threshold = std::round(problem.settings.dropout_p * 65536.0);
  p.drop_below = static_cast<uint32_t>(std::min(threshold, 65535.0));
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
  const int64_t open = problem.len_q + problem.len_kv;
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

uint32_t tiles_of(int64_t length, int per_threadgroup) {
  return static_cast<uint32_t>((length + per_threadgroup - 1) /
                               per_threadgroup);
}

Size3 grid_of_part(const Specialisation& s,
                   const Problem& problem,
                   const Part& part) {
  const int64_t group = problem.heads_q / problem.heads_kv;
  if (s.kernel == Kernel::backward_dkdv) {
    return {tiles_of(part.chunk->column_end - part.chunk->column0,
                     s.tile.cols_per_threadgroup()),
            static_cast<uint32_t>(part.pairs), 1};
  }
  return {tiles_of(problem.len_q, s.tile.rows_per_threadgroup()),
          static_cast<uint32_t>(part.pairs * group), 1};
}

Size3 grid_of(const Specialisation& s,
              const Problem& problem,
              const Part& part) {
  const auto heads_q = static_cast<uint32_t>(problem.heads_q);
  const auto batch = static_cast<uint32_t>(problem.batch);
  if (s.kernel == Kernel::backward_dq_spilled || s.features.is_spilling) {
    return grid_of_part(s, problem, part);
  }
  switch (s.kernel) {
    case Kernel::backward_prepare:
      return {tiles_of(problem.len_q, s.tile.simdgroups), heads_q, batch};
    case Kernel::backward_dkdv:
      return {tiles_of(problem.len_kv, s.tile.cols_per_threadgroup()),
              static_cast<uint32_t>(problem.heads_kv), batch};
    case Kernel::backward_dbias:
    case Kernel::backward_dbias_spilled: {
      const auto& [batches, heads, rows, columns] = problem.mask_sizes;
      return {tiles_of(columns, s.tile.cols_per_threadgroup()),
              tiles_of(rows, 8 * s.tile.rows),
              static_cast<uint32_t>(batches * heads)};
    }
    case Kernel::decode:
      return {tiles_of(problem.cache.splits, s.tile.simdgroups / s.tile.split),
              static_cast<uint32_t>(problem.heads_kv) *
                  tiles_of(problem.rows_of_group(), 8 * s.tile.rows),
              batch};
    case Kernel::combine:
      return {tiles_of(problem.rows_of_group(), s.tile.simdgroups),
              static_cast<uint32_t>(problem.heads_kv), batch};
    case Kernel::forward:
    case Kernel::backward_dq:
    case Kernel::backward_dq_spilled:
      break;
  }
  return {tiles_of(problem.len_q, s.tile.rows_per_threadgroup()), heads_q,
          batch};
}

Argument reads(uint32_t slot, const BufferView& view) {
  return {slot, Access::read, view, {}};
}

Argument writes(uint32_t slot, const BufferView& view) {
  return {slot, Access::write, view, {}};
}

// The arguments that tile/domain.h and the forward name for some features.
void add_feature_arguments(const Features& f,
                           const Tensors& tensors,
                           Arguments& arguments) {
  if (f.mask != MaskKind::none) {
    arguments.push_back(reads(SLOT_MASK, tensors.mask.view));
  }
  if (f.has_slopes) arguments.push_back(reads(SLOT_SLOPES, tensors.slopes));
  if (f.has_sinks) arguments.push_back(reads(SLOT_SINKS, tensors.sinks));
  if (f.has_grad_lse) {
    arguments.push_back(reads(SLOT_GRAD_LSE, tensors.grad_lse));
    arguments.push_back(reads(SLOT_LSE, tensors.lse));
  }
  if (f.is_packed) {
    arguments.push_back(reads(SLOT_STARTS_Q, tensors.starts_q));
    arguments.push_back(reads(SLOT_STARTS_KV, tensors.starts_kv));
  }
  if (f.is_decode) arguments.push_back(reads(SLOT_LENGTHS, tensors.lengths));
  if (f.is_paged) arguments.push_back(reads(SLOT_TABLE, tensors.table));
  if (f.has_left_pads) {
    arguments.push_back(reads(SLOT_LEFT_PADS, tensors.left_pads));
  }
  if (f.has_cache_rows) {
    arguments.push_back(reads(SLOT_CACHE_ROWS, tensors.cache_rows));
  }
}

void add_launch(Device& device,
                const Problem& problem,
                const Tensors& tensors,
                Kernel kernel,
                Arguments arguments,
                Plan& plan,
                const Part& part = {}) {
  const int64_t kept = part.chunk == nullptr
                           ? 0
                           : int64_t{64} * part.chunk->row_fragments *
                                 part.chunk->column_fragments;
  const Compiled& found =
      part.compiled != nullptr
          ? *part.compiled
          : compiled(device, specialise(device.limits().family, problem,
                                        tensors, kernel, kept, false));
  const Specialisation& s = found.specialisation;
  Launch launch;
  launch.pipeline = found.pipeline;
  launch.arguments = std::move(arguments);
  add_feature_arguments(s.features, tensors, launch.arguments);
  launch.arguments.push_back(
      {SLOT_PARAMS,
       Access::read,
       {},
       std::as_bytes(std::span<const AttentionParams>(&plan.params, 1))});
  if (part.chunk != nullptr) {
    launch.arguments.push_back(
        {SLOT_CHUNK,
         Access::read,
         {},
         std::as_bytes(std::span<const SpillChunk>(part.chunk, 1))});
  }
  launch.threadgroups = grid_of(s, problem, part);
  launch.threads_per_threadgroup = {s.tile.threads(), 1, 1};
  plan.launches.push_back(std::move(launch));
  plan.kernels.push_back(&found);
}

}  // namespace

void plan_forward(Device& device,
                  const Problem& problem,
                  const Tensors& tensors,
                  Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::forward,
             {reads(SLOT_Q, tensors.q.view), reads(SLOT_K, tensors.k.view),
              reads(SLOT_V, tensors.v.view), writes(SLOT_OUT, tensors.out.view),
              writes(SLOT_LSE, tensors.lse), writes(SLOT_STATS, tensors.stats)},
             plan);
}

namespace {

Arguments with(Arguments arguments, const Arguments& more) {
  for (const Argument& argument : more) arguments.push_back(argument);
  return arguments;
}

// Each chunk's ds is used up before the next overwrites it.
void add_spilled(Device& device,
                 const Problem& problem,
                 const Tensors& tensors,
                 const Spill& spill,
                 const Arguments& inputs,
                 Plan& plan) {
  plan.chunks = spill.chunks;
  Arguments written = {writes(SLOT_SPILL, tensors.spill)};
  Arguments read = {reads(SLOT_SPILL, tensors.spill)};
  if (spill.has_units()) {
    written.push_back(writes(SLOT_UNITS, tensors.units));
    read.push_back(reads(SLOT_UNITS, tensors.units));
  }
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const auto part = [&](const Compiled* kernel) {
      return Part{&plan.chunks[i], spill.pairs[i], kernel};
    };
    add_launch(device, problem, tensors, Kernel::backward_dkdv,
               with(with(inputs, {writes(SLOT_DK, tensors.dk.view),
                                  writes(SLOT_DV, tensors.dv.view)}),
                    written),
               plan, part(spill.dkdv));
    // float32 sums begin where those of the chunks before have ended.
    const bool is_continued =
        problem.dtype == DType::float32 && plan.chunks[i].column0 > 0;
    Arguments of_dq =
        with(read, {reads(SLOT_K, tensors.k.view),
                    {SLOT_DQ,
                     is_continued ? Access::read_write : Access::write,
                     tensors.dq.view,
                     {}}});
    if (spill.is_summed()) {
      of_dq.push_back({SLOT_DQ_SUMS, Access::read_write, tensors.dq_sums, {}});
    }
    add_launch(device, problem, tensors, Kernel::backward_dq_spilled,
               std::move(of_dq), plan, part(spill.dq));
    if (spill.serves_mask) {
      add_launch(device, problem, tensors, Kernel::backward_dbias_spilled,
                 with(read, {writes(SLOT_GRAD_MASK, tensors.grad_mask)}), plan,
                 part(nullptr));
    }
  }
}

}  // namespace

void plan_backward(Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   const Spill& spill,
                   Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::backward_prepare,
             {reads(SLOT_OUT, tensors.out.view),
              reads(SLOT_GRAD_OUT, tensors.grad_out.view),
              writes(SLOT_DELTA, tensors.delta)},
             plan);
  const Arguments inputs = {reads(SLOT_Q, tensors.q.view),
                            reads(SLOT_K, tensors.k.view),
                            reads(SLOT_V, tensors.v.view),
                            reads(SLOT_GRAD_OUT, tensors.grad_out.view),
                            reads(SLOT_STATS, tensors.stats),
                            reads(SLOT_DELTA, tensors.delta)};
  const auto add = [&](Kernel kernel, std::initializer_list<Argument> outputs) {
    add_launch(device, problem, tensors, kernel, with(inputs, outputs), plan);
  };
  if (spill.is_used()) {
    add_spilled(device, problem, tensors, spill, inputs, plan);
  } else {
    if (tensors.dk.view.handle != nullptr) {
      add(Kernel::backward_dkdv,
          {writes(SLOT_DK, tensors.dk.view), writes(SLOT_DV, tensors.dv.view)});
    }
    if (tensors.dq.view.handle != nullptr) {
      add(Kernel::backward_dq, {writes(SLOT_DQ, tensors.dq.view)});
    }
  }
  if (tensors.grad_mask.handle != nullptr && !spill.serves_mask) {
    add(Kernel::backward_dbias, {writes(SLOT_GRAD_MASK, tensors.grad_mask)});
  }
}

int64_t decode_splits(const Problem& problem) {
  constexpr int64_t kThreadgroups = 128, kLeastKeys = 64, kMostKeys = 1024;
  const int64_t row_tiles = (problem.rows_of_group() + 15) / 16;
  const int64_t side_by_side = problem.batch * problem.heads_kv * row_tiles;
  const int64_t most = std::max<int64_t>(problem.len_kv / kLeastKeys, 1);
  // A long sum in a row is off by more roundings than float32 users expect.
  const int64_t least = problem.dtype == DType::float32
                            ? (problem.len_kv + kMostKeys - 1) / kMostKeys
                            : 1;
  return std::clamp<int64_t>(kThreadgroups / side_by_side, least,
                             std::max(most, least));
}

void plan_decode(Device& device,
                 const Problem& problem,
                 const Tensors& tensors,
                 Plan& plan) {
  plan.params = parameters(problem, tensors);
  add_launch(device, problem, tensors, Kernel::decode,
             {reads(SLOT_Q, tensors.q.view), reads(SLOT_K, tensors.k.view),
              reads(SLOT_V, tensors.v.view), writes(SLOT_PARTS, tensors.parts),
              writes(SLOT_PART_STATS, tensors.part_stats)},
             plan);
  add_launch(
      device, problem, tensors, Kernel::combine,
      {reads(SLOT_PARTS, tensors.parts),
       reads(SLOT_PART_STATS, tensors.part_stats),
       writes(SLOT_OUT, tensors.out.view), writes(SLOT_LSE, tensors.lse)},
      plan);
}

}  // namespace orchard::attention
