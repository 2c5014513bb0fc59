// csrc/attention/plan.cpp: parameters, specialisations, bindings and grids.
#include "attention/plan.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "attention/tiles.h"

namespace orchard::attention {
namespace {

using device::Access;
using device::Argument;
using device::Arguments;
using device::BufferView;
using device::Device;
using device::Launch;
using device::Pipeline;
using device::Size3;

const char* kernel_name(Kernel kernel) {
  switch (kernel) {
    case Kernel::forward:
      return "forward";
    case Kernel::backward_prepare:
      return "backward_prepare";
    case Kernel::backward_dkdv:
      return "backward_dkdv";
    case Kernel::backward_dq:
      return "backward_dq";
    case Kernel::backward_dq_spilled:
      return "backward_dq_spilled";
    case Kernel::backward_dbias:
      return "backward_dbias";
    case Kernel::backward_dbias_spilled:
      return "backward_dbias_spilled";
    case Kernel::decode:
      return "decode";
    case Kernel::combine:
      break;
  }
  return "combine";
}

const char* metal_type(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float";
    case DType::float16:
      return "half";
    case DType::bfloat16:
      break;
  }
  return "bfloat";
}

// What a kernel's text has or leaves out.
struct Features {
  MaskKind mask = MaskKind::none;
  DType mask_dtype = DType::float32;
  bool has_window = false;
  bool has_slopes = false;
  bool has_softcap = false;
  bool has_sinks = false;
  bool has_dropout = false;
  bool is_packed = false;
  bool is_decode = false;
  bool is_paged = false;
  bool has_left_pads = false;
  bool has_cache_rows = false;
  bool is_spilling = false;
  bool is_summed = false;

  bool operator==(const Features&) const = default;

  const char* mask_type() const {
    return mask == MaskKind::bias ? metal_type(mask_dtype) : "uchar";
  }
  std::string name() const {
    std::string text;
    if (mask == MaskKind::boolean) text += "_mask";
    if (mask == MaskKind::bias) text += std::string("_bias_") + mask_type();
    if (has_window) text += "_window";
    if (has_slopes) text += "_slopes";
    if (has_softcap) text += "_softcap";
    if (has_sinks) text += "_sinks";
    if (has_dropout) text += "_dropout";
    if (is_packed) text += "_packed";
    if (is_paged) text += "_paged";
    if (has_left_pads) text += "_leftpads";
    if (has_cache_rows) text += "_cacherows";
    if (is_spilling) text += "_spilling";
    if (is_summed) text += "_summed";
    return text;
  }
};

// The part of the scores that a launch of a spilling backward works on.
struct Part {
  const SpillChunk* chunk = nullptr;  // none: all of them
  int64_t pairs = 0;                  // key heads
  bool is_summed = false;
};

// The features of a problem that a kernel's text knows.
Features features_of(const Problem& problem, Kernel kernel, const Part& part) {
  Features f;
  f.is_packed = problem.is_packed;
  if (kernel == Kernel::backward_prepare || kernel == Kernel::combine) return f;
  f.has_window =
      problem.settings.window_left >= 0 || problem.settings.window_right >= 0;
  f.is_summed = part.is_summed && kernel == Kernel::backward_dq_spilled;
  if (kernel == Kernel::backward_dq_spilled) return f;
  if (kernel == Kernel::backward_dbias_spilled) {
    f.mask = problem.mask;
    f.mask_dtype = problem.mask_dtype;
    return f;
  }
  f.is_spilling = part.chunk != nullptr && kernel == Kernel::backward_dkdv;
  f.is_decode = problem.cache.is_used;
  f.is_paged = problem.cache.is_paged();
  f.has_left_pads = problem.cache.has_left_pads;
  f.has_cache_rows = problem.cache.has_rows;
  const Settings& settings = problem.settings;
  f.mask = problem.mask;
  if (f.mask == MaskKind::bias) f.mask_dtype = problem.mask_dtype;
  f.has_slopes = problem.has_slopes;
  f.has_softcap = settings.softcap > 0.0;
  f.has_sinks = problem.has_sinks && kernel == Kernel::forward;
  f.has_dropout = settings.dropout_p > 0.0;
  return f;
}

// All that changes a kernel's text.
struct Specialisation {
  Kernel kernel;
  DType dtype;
  int64_t head_dim;
  int64_t head_dim_v;
  int64_t vec;
  Features features;
  Tile tile{};

  bool operator==(const Specialisation&) const = default;
  std::string name() const {
    const Tile& t = tile;
    return std::string(kernel_name(kernel)) + "_" + metal_type(dtype) + "_d" +
           std::to_string(head_dim) + "_dv" + std::to_string(head_dim_v) +
           "_vec" + std::to_string(vec) + "_tile" + std::to_string(t.rows) +
           "x" + std::to_string(t.cols) + "_sg" + std::to_string(t.simdgroups) +
           "_split" + std::to_string(t.split) + features.name();
  }
};

device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file) {
  const Tile& tile = s.tile;
  const Features& f = s.features;
  const auto flag = [](bool is_set) { return is_set ? "1" : "0"; };
  device::PipelineRequest request;
  request.file = file;
  request.entry = kernel_name(s.kernel);
  request.defines = {{"ELEM", metal_type(s.dtype)},
                     {"ELEM_BYTES", std::to_string(element_bytes(s.dtype))},
                     {"HEAD_DIM", std::to_string(s.head_dim)},
                     {"HEAD_DIM_V", std::to_string(s.head_dim_v)},
                     {"VEC", std::to_string(s.vec)},
                     {"TILE_ROWS", std::to_string(tile.rows)},
                     {"TILE_COLS", std::to_string(tile.cols)},
                     {"SIMDGROUPS", std::to_string(tile.simdgroups)},
                     {"SPLIT", std::to_string(tile.split)},
                     {"HAS_WINDOW", flag(f.has_window)},
                     {"MASK", std::to_string(static_cast<int>(f.mask))},
                     {"MASK_ELEM", f.mask_type()},
                     {"HAS_SLOPES", flag(f.has_slopes)},
                     {"HAS_SOFTCAP", flag(f.has_softcap)},
                     {"HAS_SINKS", flag(f.has_sinks)},
                     {"HAS_DROPOUT", flag(f.has_dropout)},
                     {"IS_PACKED", flag(f.is_packed)},
                     {"IS_DECODE", flag(f.is_decode)},
                     {"IS_PAGED", flag(f.is_paged)},
                     {"HAS_LEFT_PADS", flag(f.has_left_pads)},
                     {"HAS_CACHE_ROWS", flag(f.has_cache_rows)},
                     {"SPILLS", flag(f.is_spilling)},
                     {"IS_SUMMED", flag(f.is_summed)}};
  return request;
}

// A compiled specialisation, kept as long as the process: no more text is
// built and nothing is allocated to find it again.
struct Compiled {
  std::shared_ptr<const Pipeline> pipeline;
  std::string name;
};

struct Key {
  const Device* device;
  Specialisation specialisation;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const noexcept {
    const Specialisation& s = key.specialisation;
    const Features& f = s.features;
    uint64_t bits = 0;
    for (const bool is_set :
         {f.has_window, f.has_slopes, f.has_softcap, f.has_sinks, f.has_dropout,
          f.is_packed, f.is_decode, f.is_paged, f.has_left_pads,
          f.has_cache_rows, f.is_spilling, f.is_summed}) {
      bits = bits << 1 | (is_set ? 1 : 0);
    }
    auto hash = reinterpret_cast<uintptr_t>(key.device) ^ bits << 40;
    for (const int64_t value :
         {static_cast<int64_t>(s.kernel), static_cast<int64_t>(s.dtype),
          static_cast<int64_t>(f.mask), static_cast<int64_t>(f.mask_dtype),
          s.head_dim, s.head_dim_v, s.vec, int64_t{s.tile.rows},
          int64_t{s.tile.cols}, int64_t{s.tile.simdgroups}}) {
      hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

const Compiled& compiled(Device& device, const Specialisation& s) {
  static std::mutex mutex;
  // Nodes, so that a reference outlives later insertions.
  static std::unordered_map<Key, Compiled, KeyHash> cache;
  const Key key{&device, s};
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = cache.find(key);
    if (found != cache.end()) return found->second;
  }
  // Compiled outside the lock: others may compile other kernels meanwhile.
  const std::string file = std::string(kernel_name(s.kernel)) + ".metal";
  Compiled fresh{device.pipeline(request_for(s, file)), s.name()};
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(key, std::move(fresh)).first->second;
}

// That of a specialisation, or of one with a smaller tile: how many threads a
// kernel's registers leave room for is known only once compiled.
const Compiled& fitting(Device& device, Specialisation& s) {
  for (;;) {
    const Compiled& found = compiled(device, s);
    const uint32_t most = found.pipeline->max_threads_per_threadgroup();
    if (s.tile.threads() <= most) return found;
    const std::optional<Tile> smaller = smaller_tile(s.tile);
    if (!smaller) {
      throw Error(ErrorKind::unsupported,
                  "[" + s.name() + "] needs " +
                      std::to_string(s.tile.threads()) +
                      " threads per threadgroup, the compiled kernel allows " +
                      std::to_string(most) + " on " + device.name());
    }
    s.tile = *smaller;
  }
}

// The widest load, in elements, that never straddles a row's end and is
// aligned in every tensor: 16 bytes or the largest power of two below.
int64_t vector_elements(const Problem& problem, const Tensors& tensors) {
  const int64_t size = element_bytes(problem.dtype);
  int64_t units = (16 / size) | problem.head_dim | problem.head_dim_v;
  for (const Layout* layout :
       {&tensors.q, &tensors.k, &tensors.v, &tensors.out, &tensors.grad_out,
        &tensors.dq, &tensors.dk, &tensors.dv}) {
    units |= static_cast<int64_t>(layout->view.offset_bytes) / size;
    for (size_t axis = 0; axis < 3; ++axis) units |= layout->strides[axis];
  }
  return units & -units;
}

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
  set_scores(problem, p);
  set_mask(problem, tensors.mask, p);
  set_dropout(problem, p);
  return p;
}

uint32_t tiles_of(int64_t length, int per_threadgroup) {
  return static_cast<uint32_t>((length + per_threadgroup - 1) /
                               per_threadgroup);
}

// Rows of all query heads that share a key head.
int64_t packed_rows(const Problem& problem) {
  return problem.len_q * (problem.heads_q / problem.heads_kv);
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
                  tiles_of(packed_rows(problem), 8 * s.tile.rows),
              batch};
    case Kernel::combine:
      return {tiles_of(packed_rows(problem), s.tile.simdgroups),
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
  Specialisation s{kernel,
                   problem.dtype,
                   problem.head_dim,
                   problem.head_dim_v,
                   vector_elements(problem, tensors),
                   features_of(problem, kernel, part),
                   Tile{}};
  // It reads neither q nor k.
  if (kernel == Kernel::backward_prepare) s.head_dim = s.head_dim_v;
  // ... and this neither them nor any mask.
  if (kernel == Kernel::combine) s.head_dim = s.head_dim_v;
  // This reads k alone, and its sizes choose the same row as backward_dkdv's.
  if (kernel == Kernel::backward_dbias_spilled) s.head_dim = s.head_dim_v = 8;
  const int64_t largest = std::max(s.head_dim, s.head_dim_v);
  const device::Family family = device.limits().family;
  s.tile = kernel == Kernel::decode
               ? decode_tile(family, s.dtype, largest, packed_rows(problem),
                             problem.cache.page_size)
               : choose_tile(family, kernel, s.dtype, largest);
  Launch launch;
  const Compiled& found = fitting(device, s);
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
  plan.names.push_back(&found.name);
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

Arguments with(Arguments arguments, std::initializer_list<Argument> more) {
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
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const Part part{&plan.chunks[i], spill.pairs[i], spill.is_summed()};
    add_launch(device, problem, tensors, Kernel::backward_dkdv,
               with(inputs, {writes(SLOT_DK, tensors.dk.view),
                             writes(SLOT_DV, tensors.dv.view),
                             writes(SLOT_SPILL, tensors.spill)}),
               plan, part);
    Arguments of_dq = {reads(SLOT_K, tensors.k.view),
                       writes(SLOT_DQ, tensors.dq.view),
                       reads(SLOT_SPILL, tensors.spill)};
    if (spill.is_summed()) {
      of_dq.push_back({SLOT_DQ_SUMS, Access::read_write, tensors.dq_sums, {}});
    }
    add_launch(device, problem, tensors, Kernel::backward_dq_spilled,
               std::move(of_dq), plan, part);
    if (spill.serves_mask) {
      add_launch(device, problem, tensors, Kernel::backward_dbias_spilled,
                 {writes(SLOT_GRAD_MASK, tensors.grad_mask),
                  reads(SLOT_SPILL, tensors.spill)},
                 plan, part);
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
  constexpr int64_t kThreadgroups = 128, kLeastKeys = 64;
  const int64_t row_tiles = (packed_rows(problem) + 15) / 16;
  const int64_t side_by_side = problem.batch * problem.heads_kv * row_tiles;
  const int64_t most = std::max<int64_t>(problem.len_kv / kLeastKeys, 1);
  return std::clamp<int64_t>(kThreadgroups / side_by_side, 1, most);
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
