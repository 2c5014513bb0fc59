// csrc/device/sim/execute/checker.cpp: see checker.h.
#include "device/sim/execute/checker.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

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
  for (const BoundView& a : views_) {
    for (const BoundView& b : views_) {
      has_overlaps_ =
          has_overlaps_ || (&a != &b && a.begin < b.begin + b.length &&
                            b.begin < a.begin + a.length);
    }
  }
  code_begin_ = static_cast<const std::byte*>(code_begin);
  code_end_ = static_cast<const std::byte*>(code_end);
  cells_.resize(kGroupBytes);
}

void Checker::begin_threadgroup(const std::byte* memory) {
  memory_ = memory;
  std::fill_n(cells_.begin(), used_, Cell{});
  used_ = 0;
  banks_.forget();
}

// False where the check is on; then the problem is the launch's.
bool Checker::complain(std::string_view check,
                       const void* pc,
                       const std::function<std::string()>& problem) {
  if (is_allowed(check, pc)) return true;
  problem_ = problem();
  return false;
}

uint32_t Checker::short_pc(const void* pc) const {
  return static_cast<uint32_t>(static_cast<const std::byte*>(pc) - code_begin_);
}

bool Checker::access(const Accessor& who,
                     const Access& access,
                     uint64_t memory_bytes,
                     abi::Counters& counters) {
  const auto [at, bytes, is_write, is_vector, pc] = access;
  const auto address = reinterpret_cast<uintptr_t>(at);
  const bool is_misaligned = is_vector && bytes > 1 && address % bytes != 0;
  const uint64_t width = bytes;
  if (is_misaligned && !complain("alignment", pc, [&] {
        return "misaligned access: " + plural(width) +
               " at an address that is not a multiple of " +
               std::to_string(width);
      })) {
    return false;
  }
  if (at >= memory_ && at < memory_ + kGroupBytes) {
    const auto offset = static_cast<uint64_t>(at - memory_);
    if (offset + bytes > memory_bytes) {
      return complain("bounds", pc, [&] {
        return "out of bounds: " + plural(width) + " at byte " +
               std::to_string(offset) + " of " + plural(memory_bytes) +
               " of threadgroup memory";
      });
    }
    return group_access(who, access, counters);
  }
  if (!is_write && at >= code_begin_ && at + bytes <= code_end_) {
    count(counters, abi::Space::constant, bytes, false);
    return true;
  }
  return device_access(who, access, counters);
}

// The view that an access lies in.  One buffer may be bound twice: what may be
// written counts.
const BoundView* Checker::find(const Access& access) {
  const BoundView*& recent = recent_[short_pc(access.pc) / 4 % kRecent];
  if (recent != nullptr && recent->holds(access.at, access.bytes))
    return recent;
  const BoundView* found = nullptr;
  for (const BoundView& view : views_) {
    if (view.holds(access.at, access.bytes) && (!found || view.is_writable)) {
      found = &view;
    }
  }
  if (!has_overlaps_) recent = found;
  return found;
}

bool Checker::device_access(const Accessor& who,
                            const Access& access,
                            abi::Counters& counters) {
  const BoundView* found = find(access);
  if (found == nullptr) {
    return complain("bounds", access.pc, [&] { return outside(access); });
  }
  count(counters,
        found->is_constant ? abi::Space::constant : abi::Space::device,
        access.bytes, access.is_write);
  if (access.is_write) return own(who, access, *found);
  const auto width = static_cast<size_t>(std::bit_width(access.bytes) - 1);
  load_widths_[std::min(width, load_widths_.size() - 1)] += 1;
  return true;
}

Checker::Owner& Checker::owner_of(uintptr_t address) {
  const uintptr_t number = address / kPageBytes;
  auto& [recent, page] = recent_pages_[number % recent_pages_.size()];
  if (page == nullptr || recent != number) {
    recent = number;
    page = &pages_[number];
  }
  return (*page)[address % kPageBytes];
}

// Makes the threadgroup the one that writes these bytes.
bool Checker::own(const Accessor& who,
                  const Access& access,
                  const BoundView& view) {
  const auto place = [&] {
    return "byte " + std::to_string(access.at - view.begin) + " of '" +
           view.name + "' at index " + std::to_string(view.index);
  };
  if (!view.is_writable) {
    return complain("bounds", access.pc, [&] {
      return "write to " + place() + ", which was bound for reading";
    });
  }
  const auto address = reinterpret_cast<uintptr_t>(access.at);
  for (uint64_t i = 0; i < access.bytes; ++i) {
    Owner& owner = owner_of(address + i);
    if (owner.group != 0 && owner.group != who.group + 1) {
      other_pc_ = long_pc(owner.pc);
      if (!complain("races", access.pc, [&] {
            return "race: two threadgroups (numbers " +
                   std::to_string(owner.group - 1) + " and " +
                   std::to_string(who.group) + ") write " + place();
          })) {
        return false;
      }
    }
    owner = {who.group + 1, short_pc(access.pc)};
  }
  return true;
}

std::string Checker::outside(const Access& access) const {
  const std::byte* at = access.at;
  const std::string what = std::string("out of bounds: ") +
                           (access.is_write ? "write" : "read") + " of " +
                           plural(access.bytes);
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

// Whether no barrier separates this access from an earlier one, which then is
// other_pc().
bool Checker::has_conflict(const Cell& cell,
                           const Accessor& who,
                           bool is_write) {
  const auto me = static_cast<uint16_t>(who.thread + 1);
  const auto is_far = [&](uint16_t other) {
    return (other - 1u) / abi::lanes != who.simdgroup;
  };
  if (cell.writer != 0 && cell.writer != me) {
    const bool is_open =
        is_far(cell.writer) ? cell.write_group_epoch == who.group_epoch
                            : cell.write_simdgroup_epoch == who.simdgroup_epoch;
    other_pc_ = long_pc(cell.write_pc);
    if (is_open) return true;
  }
  if (!is_write || cell.reader == 0) return false;
  if (cell.read_group_epoch != who.group_epoch) return false;
  other_pc_ = long_pc(cell.read_pc);
  if (cell.has_far_readers || is_far(cell.reader)) return true;
  const bool is_other = cell.reader != me || cell.has_many_readers;
  return is_other && cell.read_simdgroup_epoch == who.simdgroup_epoch;
}

void Checker::note(Cell& cell,
                   const Accessor& who,
                   const Access& access) const {
  const auto me = static_cast<uint16_t>(who.thread + 1);
  if (access.is_write) {
    cell.writer = me;
    cell.write_group_epoch = who.group_epoch;
    cell.write_simdgroup_epoch = who.simdgroup_epoch;
    cell.write_pc = short_pc(access.pc) & 0x7fffffff;
    cell.is_initialized = 1;
    return;
  }
  const bool is_same_epoch =
      cell.reader != 0 && cell.read_group_epoch == who.group_epoch;
  if (!is_same_epoch) {
    cell.has_many_readers = cell.has_far_readers = 0;
  } else if ((cell.reader - 1u) / abi::lanes != who.simdgroup) {
    cell.has_far_readers = 1;
  } else if (cell.read_simdgroup_epoch != who.simdgroup_epoch) {
    cell.has_many_readers = 0;
  } else if (cell.reader != me) {
    cell.has_many_readers = 1;
  }
  cell.reader = me;
  cell.read_group_epoch = who.group_epoch;
  cell.read_simdgroup_epoch = who.simdgroup_epoch;
  cell.read_pc = short_pc(access.pc) & 0x3fffffff;
}

bool Checker::use(Cell& cell, const Accessor& who, const Access& access) {
  if (has_conflict(cell, who, access.is_write) &&
      !complain("races", access.pc, [&] {
        return "race on byte " + std::to_string(&cell - cells_.data()) +
               " of threadgroup memory: no barrier between this " +
               (access.is_write ? "write" : "read") + " and an earlier access";
      })) {
    return false;
  }
  note(cell, who, access);
  return true;
}

bool Checker::group_access(const Accessor& who,
                           const Access& access,
                           abi::Counters& counters) {
  const auto offset = static_cast<uint64_t>(access.at - memory_);
  count(counters, abi::Space::threadgroup, access.bytes, access.is_write);
  banks_.access(who.thread, offset, access.bytes, access.pc, access.is_write);
  used_ = std::max(used_, offset + access.bytes);
  const std::span cells = std::span(cells_).subspan(offset, access.bytes);
  bool is_fresh = false;
  // Neighbouring bytes have nearly always the same past.
  Cell past{}, present{};
  for (Cell& cell : cells) {
    is_fresh = is_fresh || (!access.is_write && cell.is_initialized == 0);
    if (&cell != cells.data() && cell == past) {
      cell = present;
      continue;
    }
    past = cell;
    if (!use(cell, who, access)) return false;
    present = cell;
  }
  counters.uninitialized_reads += is_fresh;
  return true;
}

Checker::Poisoned Checker::find_poison() const {
  for (const auto& [page, owners] : pages_) {
    for (uint64_t i = 0; i < kPageBytes; ++i) {
      if (owners[i].group == 0) continue;
      const auto* at =
          reinterpret_cast<const std::byte*>(page * kPageBytes + i);
      for (const BoundView& view : views_) {
        const uint32_t size = view.element_bytes == 2 ? 2 : 4;
        if (!view.is_writable || !view.holds(at, size)) continue;
        const auto offset = static_cast<uint64_t>(at - view.begin);
        const void* pc = long_pc(owners[i].pc);
        if (offset % size == 0 && looks_poisoned(at, size) &&
            !is_allowed("uninitialized", pc)) {
          return {&view, offset, pc};
        }
      }
    }
  }
  return {};
}

}  // namespace orchard::sim
