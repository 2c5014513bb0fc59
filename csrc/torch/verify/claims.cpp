// csrc/torch/verify/claims.cpp: see claims.h.
#include "torch/verify/claims.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>

#include "device/user_cache.h"
#include "torch/installation.h"

namespace orchard::torch_ops {
namespace {

using attention::Trust;
using device::Device;

const char* prefix_of(Trust trust) {
  switch (trust) {
    case Trust::its_backward:
      return "backward of ";
    case Trust::its_mask_backward:
      return "backward of mask and ";
    case Trust::none:
    case Trust::own_results:
      break;
  }
  return "";
}

// The text of a claim's entry in the user's cache.
std::string entry_of(const Device& device, const Claim& claim) {
  return "orchard-ops verified a kernel\n" + installation(device) +
         prefix_of(claim.trust) + claim.kernel->name + "\n";
}

}  // namespace

bool are_kept(const Device& device, const Claims& claims) {
  return std::all_of(claims.begin(), claims.end(), [&](const Claim& claim) {
    return claim.is_known() || device::is_kept(entry_of(device, claim));
  });
}

void keep(const Device& device, const Claims& claims) {
  static std::atomic<bool> is_warned{false};
  try {
    for (const Claim& claim : claims) device::keep(entry_of(device, claim));
  } catch (const Error& error) {
    if (is_warned.exchange(true)) return;
    TORCH_WARN(
        "orchard_ops cannot keep that kernels were found right, so each "
        "process tries them again: ",
        error.message(),
        "; set ORCHARD_CACHE_DIR to a folder of your own, or "
        "ORCHARD_VERIFY=never");
  }
}

}  // namespace orchard::torch_ops
