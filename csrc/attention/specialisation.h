// csrc/attention/specialisation.h: one text of a kernel.
#pragma once

#include <string>

#include "attention/problem.h"
#include "attention/tiles.h"

namespace orchard::attention {

struct Tensors;  // of attention/plan.h

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
  bool has_grad_lse = false;
  bool is_wide = false;  // a head of a tensor reaches beyond 31 bits

  bool operator==(const Features&) const = default;

  const char* mask_type() const;
  std::string name() const;  // its part of a specialisation's
};

// The features of a problem that a kernel's text knows; `is_spilling` and
// `is_summed` of the backward that the launch is a part of.
Features features_of(const Problem& problem,
                     Kernel kernel,
                     bool is_spilling,
                     bool is_summed);

// All that changes a kernel's text.
struct Specialisation {
  Kernel kernel;
  DType dtype;
  DType operand;  // in registers (attention/tiles.h)
  int64_t head_dim;
  int64_t head_dim_v;
  int64_t vec;
  Features features;
  Tile tile{};

  bool operator==(const Specialisation&) const = default;
  std::string name() const;
};

// The text of one launch, with the tile of the table.  `kept` bounds the
// elements of ds that a spilling backward keeps of a head; 0: it keeps none.
Specialisation specialise(device::Family family,
                          const Problem& problem,
                          const Tensors& tensors,
                          Kernel kernel,
                          int64_t kept,
                          bool is_summed);

// The kernel function's name, its file, and what a device compiles; the request
// holds a view of the file's name.
const char* entry_of(const Specialisation& s);
std::string file_of(const Specialisation& s);
device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file);
// What a buffer of the kernel holds: "float16", "int32" and so on.
const char* element_type(const Specialisation& s, uint32_t slot);

}  // namespace orchard::attention
