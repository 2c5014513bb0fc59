// csrc/device/sim/execute/banks.cpp: see banks.h.
#include "device/sim/execute/banks.h"

#include <algorithm>
#include <bit>

namespace orchard::sim {
namespace {

constexpr uint64_t kBanks = 32;
constexpr uint64_t kWordBytes = 4;

}  // namespace

void BankCounter::access(uint32_t thread,
                         uint64_t offset,
                         uint64_t bytes,
                         const void* pc,
                         bool is_write) {
  // A load and a store may share an address of code: both belong to one copy.
  const uint64_t key =
      reinterpret_cast<uintptr_t>(pc) * 2 + static_cast<uint64_t>(is_write);
  Instruction& instruction = open_[thread / abi::lanes][key];
  const uint32_t lane = thread % abi::lanes;
  const uint32_t passage = instruction.passages[lane]++;
  if (instruction.accesses.size() <= passage) {
    instruction.accesses.emplace_back().offsets.fill(kAbsent);
  }
  Access& access = instruction.accesses[passage];
  access.bytes = std::max(access.bytes, bytes);
  access.offsets[lane] = offset;
}

uint64_t BankCounter::extra_passes(const Access& access) {
  const uint64_t pass_bytes = kBanks * kWordBytes;
  const uint64_t width = std::bit_ceil(std::max(access.bytes, kWordBytes));
  const uint64_t together = std::max<uint64_t>(pass_bytes / width, 1);
  uint64_t extra = 0;
  std::vector<uint64_t> words;
  for (uint64_t first = 0; first < abi::lanes; first += together) {
    words.clear();
    for (uint64_t lane = first; lane < first + together; ++lane) {
      const uint64_t at = access.offsets[lane];
      if (at == kAbsent) continue;
      for (uint64_t word = at / kWordBytes;
           word <= (at + access.bytes - 1) / kWordBytes; ++word) {
        words.push_back(word);
      }
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    std::array<uint64_t, kBanks> load{};
    for (const uint64_t word : words) load[word % kBanks] += 1;
    extra += *std::max_element(load.begin(), load.end()) -
             (words.size() + kBanks - 1) / kBanks;
  }
  return extra;
}

void BankCounter::settle(uint32_t simdgroup) {
  Instructions& open = open_[simdgroup];
  for (const auto& [key, instruction] : open) {
    for (const Access& access : instruction.accesses) {
      conflicts_ += extra_passes(access);
    }
  }
  open.clear();
}

void BankCounter::forget() {
  for (Instructions& open : open_) open.clear();
}

}  // namespace orchard::sim
