// csrc/device/sim/execute/poison.h: the pattern of memory that nobody has
// written.
#pragma once

#include <cstdint>
#include <cstring>

namespace orchard::sim {

// Signaling NaN as float and bfloat, NaN as half, far out of range as index.
inline constexpr uint64_t kPoison = 0x7fa57fa57fa57fa5u;

inline void poison(void* at, uint64_t bytes) {
  auto* to = static_cast<unsigned char*>(at);
  uint64_t i = 0;
  for (; i + sizeof(kPoison) <= bytes; i += sizeof(kPoison)) {
    std::memcpy(to + i, &kPoison, sizeof(kPoison));
  }
  std::memcpy(to + i, &kPoison, bytes - i);
}

inline bool is_poison(const void* at, uint64_t bytes) {
  const auto* from = static_cast<const unsigned char*>(at);
  for (uint64_t i = 0; i < bytes; ++i) {
    if (from[i] != static_cast<unsigned char>(i % 2 == 0 ? 0xa5 : 0x7f)) {
      return false;
    }
  }
  return true;
}

}  // namespace orchard::sim
