// csrc/torch/verify/claims.h: what launches rely on, and which of it the user's
// cache says was found right.
#pragma once

#include <vector>

#include "attention/compiled.h"

namespace orchard::torch_ops {

// Something that a launch relies on.
struct Claim {
  const attention::Compiled* kernel;
  attention::Trust trust;

  bool operator==(const Claim&) const = default;
  bool is_known() const { return kernel->is_trusted(trust); }
};

using Claims = std::vector<Claim>;

// Whether each is known in this process, or to the cache.
bool are_kept(const device::Device& device, const Claims& claims);
// Where they cannot be kept a warning says why, once a process.
void keep(const device::Device& device, const Claims& claims);

}  // namespace orchard::torch_ops
