// csrc/device/sim/execute/banks.cpp: see banks.h.
#include "device/sim/execute/banks.h"

#include <algorithm>
#include <bit>

namespace orchard::sim {
namespace {

constexpr uint64_t kBanks = 32;
constexpr uint64_t kWordBytes = 4;

}  // namespace

BankCounter::Instruction& BankCounter::Simdgroup::find(uint64_t key) {
  uint32_t& index = recent[key / 2 % kRecent];
  if (index >= instructions.size() || instructions[index].key != key) {
    const auto next = static_cast<uint32_t>(instructions.size());
    const auto [found, is_new] = indices.try_emplace(key, next);
    if (is_new) instructions.emplace_back().key = key;
    index = found->second;
  }
  Instruction& instruction = instructions[index];
  if (instruction.accesses.empty()) open.push_back(index);
  return instruction;
}

void BankCounter::Simdgroup::close() {
  for (const uint32_t index : open) {
    instructions[index].accesses.clear();
    instructions[index].passages.fill(0);
  }
  open.clear();
}

void BankCounter::access(uint32_t thread,
                         uint64_t offset,
                         uint64_t bytes,
                         const void* pc,
                         bool is_write) {
  // A load and a store may share an address of code: both belong to one copy.
  const uint64_t key =
      reinterpret_cast<uintptr_t>(pc) * 2 + static_cast<uint64_t>(is_write);
  Instruction& instruction = simdgroups_[thread / abi::lanes].find(key);
  const uint32_t lane = thread % abi::lanes;
  const uint32_t passage = instruction.passages[lane]++;
  if (instruction.accesses.size() <= passage) {
    instruction.accesses.emplace_back().offsets.fill(kAbsent);
  }
  Access& access = instruction.accesses[passage];
  access.bytes = std::max(access.bytes, bytes);
  access.offsets[lane] = static_cast<uint16_t>(offset);
}

uint64_t BankCounter::extra_passes(const Access& access) {
  const uint64_t pass_bytes = kBanks * kWordBytes;
  const uint64_t width = std::bit_ceil(std::max(access.bytes, kWordBytes));
  const uint64_t together = std::max<uint64_t>(pass_bytes / width, 1);
  if (together == 1) return 0;  // a lane's words are consecutive
  uint64_t extra = 0;
  for (uint64_t first = 0; first < abi::lanes; first += together) {
    // The different words of each bank: a lane has at most one there.
    std::array<std::array<uint64_t, abi::lanes>, kBanks> words;
    std::array<uint64_t, kBanks> load{};
    uint64_t total = 0;
    for (uint64_t lane = first; lane < first + together; ++lane) {
      const uint64_t at = access.offsets[lane];
      if (at == kAbsent) continue;
      const uint64_t end = at + access.bytes;
      for (uint64_t word = at / kWordBytes; word * kWordBytes < end; ++word) {
        auto& held = words[word % kBanks];
        uint64_t& count = load[word % kBanks];
        const auto last = held.begin() + static_cast<ptrdiff_t>(count);
        if (std::find(held.begin(), last, word) != last) continue;
        held[count++] = word;
        ++total;
      }
    }
    extra += *std::max_element(load.begin(), load.end()) -
             (total + kBanks - 1) / kBanks;
  }
  return extra;
}

void BankCounter::settle(uint32_t simdgroup) {
  Simdgroup& s = simdgroups_[simdgroup];
  for (const uint32_t index : s.open) {
    for (const Access& access : s.instructions[index].accesses) {
      conflicts_ += extra_passes(access);
    }
  }
  s.close();
}

void BankCounter::forget() {
  for (Simdgroup& s : simdgroups_) s.close();
}

}  // namespace orchard::sim
