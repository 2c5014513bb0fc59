// csrc/attention/specialisation.cpp: which text a launch needs, and its
// defines.
#include "attention/specialisation.h"

#include <algorithm>
#include <limits>

namespace orchard::attention {
namespace {

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
  const auto add = [&](std::initializer_list<const Layout*> layouts,
                       int64_t bytes) {
    for (const Layout* layout : layouts) {
      units |= static_cast<int64_t>(layout->view.offset_bytes) / bytes;
      for (size_t axis = 0; axis < 3; ++axis) units |= layout->strides[axis];
    }
  };
  add({&tensors.q, &tensors.k, &tensors.v, &tensors.out, &tensors.grad_out,
       &tensors.dq, &tensors.dk, &tensors.dv},
      size);
  if (problem.settings.part) {  // the results are in float32
    add({&tensors.out, &tensors.dq, &tensors.dk, &tensors.dv}, 4);
  }
  return units & -units;
}

// Whether an element of a head, counted from where the head begins, has a
// number that needs more than 31 bits, as an Index of the kernels (without
// WIDE_INDEX) has them.
bool needs_wide(const Problem& problem,
                const Tensors& tensors,
                int64_t spilled) {
  int64_t farthest = spilled;
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

Features features_of(const Problem& problem,
                     const KernelRow& kernel,
                     Set<Feature> planned) {
  Features found;
  for (const FeatureRow& row : feature_rows()) {
    const Feature feature = row.feature;
    const bool is_there =
        row.is_of != nullptr ? row.is_of(problem) : planned.has(feature);
    if (is_there && kernel.features.has(feature)) found.all.add({feature});
  }
  if (found.has(Feature::mask)) {
    found.mask = problem.mask;
    if (problem.mask == MaskKind::bias) found.mask_dtype = problem.mask_dtype;
  }
  return found;
}

}  // namespace

const char* Features::mask_type() const {
  return mask == MaskKind::bias ? metal_type(mask_dtype) : "uchar";
}

std::string Features::name() const {
  std::string text;
  if (mask == MaskKind::boolean) text += "_mask";
  if (mask == MaskKind::bias) text += std::string("_bias_") + mask_type();
  for (const FeatureRow& row : feature_rows()) {
    if (has(row.feature)) text += row.suffix;
  }
  return text;
}

Specialisation specialise(const Tables& tables,
                          const Problem& problem,
                          const Tensors& tensors,
                          Kernel kernel,
                          int64_t spilled,
                          Set<Feature> planned) {
  if (spilled != 0) planned.add({Feature::spilling});
  if (needs_wide(problem, tensors, spilled)) planned.add({Feature::wide});
  const KernelRow& row = row_of(kernel);
  Specialisation s{kernel,
                   problem.dtype,
                   operand_type(tables.family, problem.dtype),
                   problem.head_dim,
                   problem.head_dim_v,
                   vector_elements(problem, tensors),
                   features_of(problem, row, planned),
                   Tile{}};
  if (!row.has_head_dim_v) s.head_dim_v = 8;  // one fragment
  if (!row.has_head_dim) s.head_dim = s.head_dim_v;
  const int64_t largest = std::max(s.head_dim, s.head_dim_v);
  s.tile = kernel == Kernel::decode
               ? decode_tile(tables, s.dtype, largest, problem.rows_of_group(),
                             problem.cache.page_size)
               : choose_tile(tables, kernel, s.dtype, largest);
  return s;
}

std::string Specialisation::name() const {
  const Tile& t = tile;
  return std::string(row_of(kernel).name) + "_" + metal_type(dtype) +
         (operand != dtype ? "_in_float" : "") + "_d" +
         std::to_string(head_dim) + "_dv" + std::to_string(head_dim_v) +
         "_vec" + std::to_string(vec) + "_tile" + std::to_string(t.rows) + "x" +
         std::to_string(t.cols) + "_sg" + std::to_string(t.simdgroups) +
         "_slices" + std::to_string(t.slices) + features.name();
}

Slots slots_of(const Specialisation& s) {
  Slots slots = row_of(s.kernel).slots_with(s.features.all);
  if (s.dtype != DType::float16) {  // only its range needs them
    slots.read.remove(SLOT_UNITS);
    slots.written.remove(SLOT_UNITS);
  }
  return slots;
}

const char* entry_of(const Specialisation& s) { return row_of(s.kernel).name; }

std::string file_of(const Specialisation& s) {
  return std::string(entry_of(s)) + ".metal";
}

device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file) {
  const Tile& tile = s.tile;
  const Features& f = s.features;
  device::PipelineRequest request;
  request.file = file;
  request.entry = entry_of(s);
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
      {"SLICES", std::to_string(tile.slices)}};
  for (const FeatureRow& row : feature_rows()) {
    if (row.feature == Feature::mask) {
      request.defines.emplace_back(row.define,
                                   std::to_string(static_cast<int>(f.mask)));
      request.defines.emplace_back("MASK_ELEM", f.mask_type());
    } else {
      request.defines.emplace_back(row.define, f.has(row.feature) ? "1" : "0");
    }
  }
  return request;
}

const char* element_type(const Specialisation& s, uint32_t slot) {
  switch (slot_rows()[slot].type) {
    case SlotRow::Type::element:
      return s.features.has(Feature::partial) &&
                     row_of(s.kernel).slots.written.has(slot)
                 ? "float32"
                 : dtype_name(s.dtype);
    case SlotRow::Type::mask:
      return s.features.mask == MaskKind::bias
                 ? dtype_name(s.features.mask_dtype)
                 : "bool";
    case SlotRow::Type::float32:
      return "float32";
    case SlotRow::Type::int32:
      return "int32";
    case SlotRow::Type::bytes:
      break;
  }
  return "bytes";
}

}  // namespace orchard::attention
