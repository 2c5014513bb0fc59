// csrc/device/sim/execute/banks.h: counts conflicts of threadgroup memory's
// banks.
//
// Apple publishes no width: 32 banks of 4 bytes are assumed, as other GPUs have
// them.  One pass serves 128 bytes, hence the lanes of a simdgroup in groups of
// 32 (up to 4 bytes each), 16 (8 bytes) or 8 (16 bytes), and one word of each
// bank, to all lanes that want it.
#pragma once

#include <array>
#include <cstddef>
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
  static constexpr uint16_t kAbsent = 0xffff;
  static constexpr size_t kRecent = 64;
  struct Access {
    uint64_t bytes = 0;
    std::array<uint16_t, abi::lanes> offsets;
  };
  struct Instruction {
    uint64_t key = 0;
    std::array<uint32_t, abi::lanes> passages{};
    std::vector<Access> accesses;  // by passage
  };
  // What a simdgroup has done since it was settled last.  Its instructions stay
  // known: a loop comes to the same ones again.
  struct Simdgroup {
    std::unordered_map<uint64_t, uint32_t> indices;  // by key
    std::vector<Instruction> instructions;
    std::vector<uint32_t> open;  // those with accesses
    // Those looked up last, by some bits of the key.
    std::array<uint32_t, kRecent> recent{};

    Instruction& find(uint64_t key);
    void close();
  };

  static uint64_t extra_passes(const Access& access);

  std::array<Simdgroup, abi::max_threads / abi::lanes> simdgroups_;
  uint64_t conflicts_ = 0;
};

}  // namespace orchard::sim
