// csrc/attention/specialisation.h: one text of a kernel.
#pragma once

#include <string>

#include "attention/kernels.h"
#include "attention/tiles.h"

namespace orchard::attention {

// What a kernel's text has of a problem.
struct Features {
  Set<Feature> all;
  MaskKind mask = MaskKind::none;
  DType mask_dtype = DType::float32;

  bool operator==(const Features&) const = default;
  bool has(Feature feature) const { return all.has(feature); }

  const char* mask_type() const;
  std::string name() const;  // its part of a specialisation's
};

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

// The text of one launch, with the tile of the tables.  `spilled` bounds the
// elements of ds that a spilling backward keeps of a head; 0: it keeps none.
// `planned`: features that no problem has by itself, besides.
Specialisation specialise(const Tables& tables,
                          const Problem& problem,
                          const Tensors& tensors,
                          Kernel kernel,
                          int64_t spilled,
                          Set<Feature> planned = {});

// The tensors that a launch of it binds.
Slots slots_of(const Specialisation& s);

// The kernel function's name, its file, and what a device compiles; the request
// holds a view of the file's name.
const char* entry_of(const Specialisation& s);
std::string file_of(const Specialisation& s);
device::PipelineRequest request_for(const Specialisation& s,
                                    const std::string& file);
// What a buffer of the kernel holds: "float16", "int32" and so on.
const char* element_type(const Specialisation& s, uint32_t slot);

}  // namespace orchard::attention
