// csrc/attention/specialisation.cpp: which text a launch needs, and its
// defines.
#include "attention/specialisation.h"

#include <algorithm>
#include <limits>

#include "attention/plan.h"
#include "kernels/params.h"

namespace orchard::attention {
namespace {

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

// Whether an element of a head, counted from where the head begins, has a
// number that needs more than 31 bits, as an Index of the kernels (without
// WIDE_INDEX) has them.
bool needs_wide(const Problem& problem, const Tensors& tensors, int64_t kept) {
  int64_t farthest = kept;
  const auto reach = [&](int64_t count, int64_t stride) {
    return std::max<int64_t>(count - 1, 0) * stride;
  };
  const auto add = [&](std::initializer_list<const Layout*> layouts,
                       int64_t length) {
    for (const Layout* layout : layouts) {
      farthest = std::max(farthest, reach(length, layout->strides[2]));
    }
  };
  add({&tensors.q, &tensors.grad_out}, problem.len_q);
  add({&tensors.k, &tensors.v}, problem.len_kv);
  if (problem.mask != MaskKind::none) {
    const auto& [batches, heads, rows, columns] = problem.mask_sizes;
    farthest = std::max({farthest, rows * columns,  // its gradient
                         reach(rows, tensors.mask.strides[2]) +
                             reach(columns, tensors.mask.strides[3])});
  }

  // More than a row's elements, and than a tile that overhangs the last column.
  constexpr int64_t kMargin = 1 << 16;
  return farthest + kMargin > std::numeric_limits<int32_t>::max();
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

Specialisation specialise(device::Family family,
                          const Problem& problem,
                          const Tensors& tensors,
                          Kernel kernel,
                          int64_t kept,
                          bool is_summed) {
  Specialisation s{kernel,
                   problem.dtype,
                   operand_type(family, problem.dtype),
                   problem.head_dim,
                   problem.head_dim_v,
                   vector_elements(problem, tensors),
                   features_of(problem, kernel, kept != 0, is_summed),
                   Tile{}};
  // These take one row by its number, others rows by the tile.
  s.features.is_wide = kernel != Kernel::backward_prepare &&
                       kernel != Kernel::combine &&
                       needs_wide(problem, tensors, kept);
  // It reads neither q nor k.
  if (kernel == Kernel::backward_prepare) s.head_dim = s.head_dim_v;
  // ... and this neither them nor any mask.
  if (kernel == Kernel::combine) s.head_dim = s.head_dim_v;
  // This reads scores alone, one fragment a simdgroup.
  if (kernel == Kernel::backward_dbias_spilled) s.head_dim = s.head_dim_v = 8;
  const int64_t largest = std::max(s.head_dim, s.head_dim_v);
  s.tile = kernel == Kernel::decode
               ? decode_tile(family, s.dtype, largest, problem.rows_of_group(),
                             problem.cache.page_size)
               : choose_tile(family, kernel, s.dtype, largest);
  return s;
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

}  // namespace orchard::attention
