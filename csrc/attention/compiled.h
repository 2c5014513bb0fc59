// csrc/attention/compiled.h: kernels as a device runs them, each made once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "attention/specialisation.h"

namespace orchard::attention {

// What is known to be right of a kernel, and for a forward of the kernels that
// differentiate it (torch/verify/verify.h).  Bits.
enum class Trust : uint8_t {
  none = 0,
  own_results = 1,
  its_backward = 2,
  its_mask_backward = 4
};

// A compiled specialisation, kept as long as the process: no more text is
// built and nothing is allocated to find it again.
struct Compiled {
  std::shared_ptr<const device::Pipeline> pipeline;
  std::string name;
  Specialisation specialisation;
  Slots slots;
  // Why it has a smaller tile than was asked for; empty if it has not.
  std::string replaced;
  // Of the kernel, for everybody who launches it.
  std::unique_ptr<std::atomic<uint8_t>> trust =
      std::make_unique<std::atomic<uint8_t>>(uint8_t{0});

  bool is_trusted(Trust wanted) const {
    const auto bit = static_cast<uint8_t>(wanted);
    return (trust->load(std::memory_order_relaxed) & bit) == bit;
  }
  void add_trust(Trust more) const {
    trust->fetch_or(static_cast<uint8_t>(more), std::memory_order_relaxed);
  }
};

// That of a specialisation, or of one with a smaller tile: whether a kernel's
// registers suffice is known only when its pipeline is made.  Error(compile)
// if no tile gives a pipeline; a failure is not remembered.
const Compiled& compiled(device::Device& device, const Specialisation& s);

}  // namespace orchard::attention
