// csrc/attention/specialisation.cpp: the defines of a text, and the cache of
// what was compiled.
#include "attention/specialisation.h"

#include <mutex>
#include <optional>
#include <unordered_map>

#include "kernels/params.h"

namespace orchard::attention {
namespace {

using device::Device;

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

}  // namespace

const char* Features::mask_type() const {
  return mask == MaskKind::bias ? metal_type(mask_dtype) : "uchar";
}

std::string Features::name() const {
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
  if (has_grad_lse) text += "_gradlse";
  if (is_wide) text += "_wide";
  return text;
}

Features features_of(const Problem& problem,
                     Kernel kernel,
                     bool is_spilling,
                     bool is_summed) {
  Features f;
  f.is_packed = problem.is_packed;
  f.has_grad_lse = problem.has_grad_lse && kernel == Kernel::backward_prepare;
  if (kernel == Kernel::backward_prepare || kernel == Kernel::combine) return f;
  f.has_window =
      problem.settings.window_left >= 0 || problem.settings.window_right >= 0;
  f.is_summed = is_summed && kernel == Kernel::backward_dq_spilled;
  if (kernel == Kernel::backward_dq_spilled) return f;
  if (kernel == Kernel::backward_dbias_spilled) {
    f.mask = problem.mask;
    f.mask_dtype = problem.mask_dtype;
    return f;
  }
  f.is_spilling = is_spilling && kernel == Kernel::backward_dkdv;
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

std::string Specialisation::name() const {
  const Tile& t = tile;
  return std::string(kernel_name(kernel)) + "_" + metal_type(dtype) +
         (operand != dtype ? "_in_float" : "") + "_d" +
         std::to_string(head_dim) + "_dv" + std::to_string(head_dim_v) +
         "_vec" + std::to_string(vec) + "_tile" + std::to_string(t.rows) + "x" +
         std::to_string(t.cols) + "_sg" + std::to_string(t.simdgroups) +
         "_split" + std::to_string(t.split) + features.name();
}

std::string file_of(const Specialisation& s) {
  return std::string(kernel_name(s.kernel)) + ".metal";
}

device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file) {
  const Tile& tile = s.tile;
  const Features& f = s.features;
  const auto flag = [](bool is_set) { return is_set ? "1" : "0"; };
  device::PipelineRequest request;
  request.file = file;
  request.entry = kernel_name(s.kernel);
  request.defines = {
      {"ELEM", metal_type(s.dtype)},
      {"ELEM_BYTES", std::to_string(element_bytes(s.dtype))},
      {"OPERAND", metal_type(s.operand)},
      {"OPERAND_BYTES", std::to_string(element_bytes(s.operand))},
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
      {"HAS_GRAD_LSE", flag(f.has_grad_lse)},
      {"IS_PACKED", flag(f.is_packed)},
      {"IS_DECODE", flag(f.is_decode)},
      {"IS_PAGED", flag(f.is_paged)},
      {"HAS_LEFT_PADS", flag(f.has_left_pads)},
      {"HAS_CACHE_ROWS", flag(f.has_cache_rows)},
      {"SPILLS", flag(f.is_spilling)},
      {"IS_SUMMED", flag(f.is_summed)},
      {"WIDE_INDEX", flag(f.is_wide)}};
  return request;
}

namespace {

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
          f.has_cache_rows, f.is_spilling, f.is_summed, f.has_grad_lse,
          f.is_wide}) {
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
  Compiled fresh{device.pipeline(request_for(s, file_of(s))), s.name(), s};
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(key, std::move(fresh)).first->second;
}

}  // namespace

const char* entry_of(const Specialisation& s) { return kernel_name(s.kernel); }

const char* element_type(const Specialisation& s, uint32_t slot) {
  switch (slot) {
    case SLOT_LSE:
    case SLOT_STATS:
    case SLOT_DELTA:
    case SLOT_SLOPES:
    case SLOT_SINKS:
    case SLOT_PARTS:
    case SLOT_PART_STATS:
    case SLOT_DQ_SUMS:
    case SLOT_GRAD_LSE:
    case SLOT_UNITS:
      return "float32";
    case SLOT_MASK:
    case SLOT_GRAD_MASK:
      return s.features.mask == MaskKind::bias
                 ? dtype_name(s.features.mask_dtype)
                 : "bool";
    case SLOT_STARTS_Q:
    case SLOT_STARTS_KV:
    case SLOT_LENGTHS:
    case SLOT_TABLE:
    case SLOT_LEFT_PADS:
    case SLOT_CACHE_ROWS:
      return "int32";
    default:
      return dtype_name(s.dtype);
  }
}

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

}  // namespace orchard::attention
