// csrc/attention/plan.h: from a problem and its buffers to launches.
#pragma once

#include <array>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "attention/problem.h"
#include "attention/spill.h"
#include "kernels/params.h"

namespace orchard::attention {

// Launches in order, with the parameter bytes that they point to.  Not
// copyable: the launches hold pointers into it.
struct Plan {
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  AttentionParams params{};
  std::list<AttentionParams> pieces;  // of launches that are cut, one each
  std::vector<Chunk> chunks;
  // Scratch for sums that go on from a launch to the next; 0: none do.
  int64_t walk_sums_bytes = 0;
  // A backward that recomputes has up to four.
  device::SmallVector<device::Launch, 4> launches;
  // What each launch runs, for logs; they live as long as the process.
  device::SmallVector<const Compiled*, 4> kernels;
};

// Gives a plan with walk_sums_bytes that scratch.
void bind_walk_sums(Plan& plan, const device::BufferView& scratch);

// out, lse and stats of q, k, v.  No length, head count or batch size may be
// zero.
void plan_forward(device::Device& device,
                  const Problem& problem,
                  const Tensors& tensors,
                  Plan& plan);

// dq unless its view is empty; dk and dv, and dbias, unless theirs are.
// With a spill that is used, tensors.spill and dq_sums have its sizes.
void plan_backward(device::Device& device,
                   const Problem& problem,
                   const Tensors& tensors,
                   const Spill& spill,
                   Plan& plan);

// How many parts a decoding step cuts its keys into, if the caller does not
// say: enough threadgroups to fill a GPU, no part of fewer than 64 keys, and in
// float32 none of more than 1,024.
int64_t decode_splits(const device::Device& device, const Problem& problem);

// out and lse of q and a cache of k and v; split_out and split_stats are
// scratch.
void plan_decode(device::Device& device,
                 const Problem& problem,
                 const Tensors& tensors,
                 Plan& plan);

}  // namespace orchard::attention
