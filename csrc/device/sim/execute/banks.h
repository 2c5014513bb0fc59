// csrc/device/sim/execute/banks.h: counts conflicts of threadgroup memory's
// banks.
//
// Apple publishes no width: 32 banks of 4 bytes are assumed, as other GPUs have
// them.  One pass serves 128 bytes, hence the lanes of a simdgroup in groups of
// 32 (up to 4 bytes each), 16 (8 bytes) or 8 (16 bytes), and one word of each
// bank, to all lanes that want it.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "device/sim/msl/abi.h"

namespace orchard::sim {

class BankCounter {
 public:
  // One lane loads or stores `bytes` at `offset` of threadgroup memory.
  void access(uint32_t thread,
              uint64_t offset,
              uint64_t bytes,
              const void* pc,
              bool is_write);
  // All lanes of the simdgroup have come to the same point of the kernel: what
  // each did at its n-th passage of an instruction was one access.
  void settle(uint32_t simdgroup);
  void forget();  // accesses of an abandoned threadgroup

  // Passes beyond those that the words touched would need.
  uint64_t conflicts() const { return conflicts_; }

 private:
  static constexpr uint64_t kAbsent = ~uint64_t{0};
  struct Access {
    uint64_t bytes = 0;
    std::array<uint64_t, abi::lanes> offsets;
  };
  struct Instruction {
    std::array<uint32_t, abi::lanes> passages{};
    std::vector<Access> accesses;  // by passage
  };
  using Instructions = std::unordered_map<uint64_t, Instruction>;

  static uint64_t extra_passes(const Access& access);

  std::array<Instructions, abi::max_threads / abi::lanes> open_;
  uint64_t conflicts_ = 0;
};

}  // namespace orchard::sim
