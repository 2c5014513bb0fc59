// csrc/device/sim/execute/checker.cpp: see checker.h.
#include "device/sim/execute/checker.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "device/sim/execute/poison.h"

namespace orchard::sim {
namespace {

constexpr uint64_t kGroupBytes = 32768;

void count(abi::Counters& counters,
           abi::Space space,
           uint64_t bytes,
           bool is_write) {
  const auto i = static_cast<uint32_t>(space);
  (is_write ? counters.stores : counters.loads)[i] += 1;
  (is_write ? counters.store_bytes : counters.load_bytes)[i] += bytes;
}

std::string plural(uint64_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

// Arithmetic makes a signaling NaN quiet and may change its sign.
bool looks_poisoned(const std::byte* at, uint32_t element_bytes) {
  if (element_bytes == 2) {
    uint16_t x = 0;
    std::memcpy(&x, at, sizeof(x));
    return (x & 0x7fbf) == 0x7fa5;
  }
  uint32_t x = 0;
  std::memcpy(&x, at, sizeof(x));
  return (x & 0x7fbfffff) == 0x7fa57fa5;
}

}  // namespace

void Checker::begin(std::vector<BoundView> views,
                    const void* code_begin,
                    const void* code_end) {
  views_ = std::move(views);
  code_begin_ = static_cast<const std::byte*>(code_begin);
  code_end_ = static_cast<const std::byte*>(code_end);
  owners_.clear();
}

void Checker::begin_threadgroup(const std::byte* memory) {
  memory_ = memory;
  cells_.assign(kGroupBytes, {});
  banks_.forget();
}

std::string Checker::access(const Accessor& who,
                            const std::byte* at,
                            uint64_t bytes,
                            bool is_write,
                            bool is_vector,
                            const void* pc,
                            uint64_t memory_bytes,
                            abi::Counters& counters) {
  other_pc_ = nullptr;
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (is_vector && bytes > 1 && address % bytes != 0) {
    return "misaligned access: " + plural(bytes) +
           " at an address that is not a multiple of " + std::to_string(bytes);
  }
  if (at >= memory_ && at < memory_ + kGroupBytes) {
    const auto offset = static_cast<uint64_t>(at - memory_);
    if (offset + bytes > memory_bytes) {
      return "out of bounds: " + plural(bytes) + " at byte " +
             std::to_string(offset) + " of " + plural(memory_bytes) +
             " of threadgroup memory";
    }
    return group_access(who, offset, bytes, is_write, pc, counters);
  }
  if (!is_write && at >= code_begin_ && at + bytes <= code_end_) {
    count(counters, abi::Space::constant, bytes, false);
    return {};
  }
  return device_access(who, at, bytes, is_write, pc, counters);
}

std::string Checker::device_access(const Accessor& who,
                                   const std::byte* at,
                                   uint64_t bytes,
                                   bool is_write,
                                   const void* pc,
                                   abi::Counters& counters) {
  const BoundView* found = nullptr;
  for (const BoundView& view : views_) {
    // One buffer may be bound twice: what may be written counts.
    if (view.holds(at, bytes) && (!found || view.is_writable)) found = &view;
  }
  if (found == nullptr) return outside(at, bytes, is_write);
  count(counters,
        found->is_constant ? abi::Space::constant : abi::Space::device, bytes,
        is_write);
  if (!is_write) {
    const auto width = static_cast<size_t>(std::bit_width(bytes) - 1);
    load_widths_[std::min(width, load_widths_.size() - 1)] += 1;
    return {};
  }
  const auto offset = static_cast<uint64_t>(at - found->begin);
  const std::string place = "byte " + std::to_string(offset) + " of '" +
                            found->name + "' at index " +
                            std::to_string(found->index);
  if (!found->is_writable) {
    return "write to " + place + ", which was bound for reading";
  }
  for (uint64_t i = 0; i < bytes; ++i) {
    Owner& owner = owners_[at + i];
    if (owner.group != 0 && owner.group != who.group + 1) {
      other_pc_ = owner.pc;
      return "race: two threadgroups (numbers " +
             std::to_string(owner.group - 1) + " and " +
             std::to_string(who.group) + ") write " + place;
    }
    owner = {who.group + 1, pc};
  }
  return {};
}

std::string Checker::outside(const std::byte* at,
                             uint64_t bytes,
                             bool is_write) const {
  const std::string what = std::string("out of bounds: ") +
                           (is_write ? "write" : "read") + " of " +
                           plural(bytes);
  const BoundView* near = nullptr;
  int64_t distance = int64_t{1} << 20;
  for (const BoundView& view : views_) {
    const int64_t before = view.begin - at;
    const int64_t after = at - view.begin - static_cast<int64_t>(view.length);
    const int64_t d = before > 0 ? before : after + 1;
    if (d < distance) {
      distance = d;
      near = &view;
    }
  }
  if (near == nullptr) return what + " outside every bound buffer";
  return what + " at byte " + std::to_string(at - near->begin) + " of '" +
         near->name + "', bound at index " + std::to_string(near->index) +
         " with " + plural(near->length);
}

// The earlier access that no barrier separates from this one, or null.
const void* Checker::conflict(const Cell& cell,
                              const Accessor& who,
                              bool is_write) const {
  const auto me = static_cast<uint16_t>(who.thread + 1);
  const auto is_far = [&](uint16_t other) {
    return (other - 1u) / abi::lanes != who.simdgroup;
  };
  if (cell.writer != 0 && cell.writer != me) {
    const bool is_open =
        is_far(cell.writer) ? cell.write_group_epoch == who.group_epoch
                            : cell.write_simdgroup_epoch == who.simdgroup_epoch;
    if (is_open) return cell.write_pc;
  }
  if (!is_write || cell.reader == 0) return nullptr;
  if (cell.read_group_epoch != who.group_epoch) return nullptr;
  if (cell.has_far_readers || is_far(cell.reader)) return cell.read_pc;
  const bool is_other = cell.reader != me || cell.has_many_readers;
  return is_other && cell.read_simdgroup_epoch == who.simdgroup_epoch
             ? cell.read_pc
             : nullptr;
}

void Checker::note(Cell& cell,
                   const Accessor& who,
                   bool is_write,
                   const void* pc) {
  const auto me = static_cast<uint16_t>(who.thread + 1);
  if (is_write) {
    cell.writer = me;
    cell.write_group_epoch = who.group_epoch;
    cell.write_simdgroup_epoch = who.simdgroup_epoch;
    cell.write_pc = pc;
    cell.is_initialized = true;
    return;
  }
  const bool is_same_epoch =
      cell.reader != 0 && cell.read_group_epoch == who.group_epoch;
  if (!is_same_epoch) {
    cell.has_many_readers = cell.has_far_readers = false;
  } else if ((cell.reader - 1u) / abi::lanes != who.simdgroup) {
    cell.has_far_readers = true;
  } else if (cell.read_simdgroup_epoch != who.simdgroup_epoch) {
    cell.has_many_readers = false;
  } else if (cell.reader != me) {
    cell.has_many_readers = true;
  }
  cell.reader = me;
  cell.read_group_epoch = who.group_epoch;
  cell.read_simdgroup_epoch = who.simdgroup_epoch;
  cell.read_pc = pc;
}

std::string Checker::group_access(const Accessor& who,
                                  uint64_t offset,
                                  uint64_t bytes,
                                  bool is_write,
                                  const void* pc,
                                  abi::Counters& counters) {
  count(counters, abi::Space::threadgroup, bytes, is_write);
  banks_.access(who.thread, offset, bytes, pc, is_write);
  bool is_fresh = false;
  for (uint64_t i = offset; i < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    if (const void* other = conflict(cell, who, is_write)) {
      other_pc_ = other;
      return "race on byte " + std::to_string(i) +
             " of threadgroup memory: no barrier between this " +
             (is_write ? "write" : "read") + " and an earlier access";
    }
    is_fresh = is_fresh || (!is_write && !cell.is_initialized);
    note(cell, who, is_write, pc);
  }
  counters.uninitialized_reads += is_fresh;
  return {};
}

Checker::Poisoned Checker::find_poison() const {
  for (const auto& [at, owner] : owners_) {
    for (const BoundView& view : views_) {
      const uint32_t size = view.element_bytes == 2 ? 2 : 4;
      if (!view.is_writable || !view.holds(at, size)) continue;
      const auto offset = static_cast<uint64_t>(at - view.begin);
      if (offset % size == 0 && looks_poisoned(at, size)) {
        return {&view, offset, owner.pc};
      }
    }
  }
  return {};
}

}  // namespace orchard::sim
