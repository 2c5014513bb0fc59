// csrc/attention/spill.h: whether a backward keeps the gradients of the scores
// for dq, five products instead of seven, and in which chunks.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/problem.h"
#include "kernels/params.h"

namespace orchard::attention {

struct Compiled;  // of attention/compiled.h

// Scratch that a backward takes at most unless told otherwise: 256 MiB of ds,
// which long lengths that are powers of two fill, and the units of its
// fragments (tile/unit.h); and the share of what the device can hold.
inline constexpr int64_t kDefaultScratch = int64_t{264} << 20;
inline constexpr int64_t kScratchShare = 8;

struct NeededGradients {
  bool dq = false;
  bool dkdv = false;
  bool dbias = false;
};

// The part of the scores that is worked on at once.
struct Chunk {
  SpillChunk params;
  int64_t pairs;  // key heads, over the batch
};

struct Spill {
  std::vector<Chunk> chunks;  // none: recompute
  int64_t spill_bytes = 0;    // of the largest chunk
  int64_t units_bytes = 0;    // of its fragments; 0: they need none
  int64_t sums_bytes = 0;     // dq between chunks of columns; 0: none
  bool serves_dbias = false;  // dbias can be read off it
  // The kernels that agree on it: the one that writes the gradients of the
  // scores, and the one that reads them.
  const Compiled* dkdv = nullptr;
  const Compiled* dq = nullptr;

  bool is_used() const { return !chunks.empty(); }
  bool is_summed() const { return sums_bytes > 0; }
};

// Bytes of scratch if nobody says: what was chosen on this GPU, or the default
// where the tables call keeping faster; 0: recompute.
int64_t scratch_by_default(const device::Device& device,
                           DType dtype,
                           int64_t largest_head_dim);

// `max_bytes` of scratch: 0 means recompute; with a positive number whatever
// fits is kept, with a negative one scratch_by_default() holds.  The kernels
// are made here, because their tiles say how the scratch is laid out.
Spill choose_spill(device::Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   const NeededGradients& needed,
                   int64_t max_bytes);

}  // namespace orchard::attention
