// csrc/device/sim/execute/checker.h: strict mode: bounds, alignment, races and
// uninitialized memory, access by access.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/sim/execute/banks.h"
#include "device/sim/msl/abi.h"

namespace orchard::sim {

// Bytes of a buffer that a launch may touch, and who wrote each of them.
struct BoundView {
  uint32_t index = 0;
  const std::byte* begin = nullptr;
  uint64_t length = 0;
  bool is_constant = false;  // in the constant space
  bool is_writable = false;
  uint32_t element_bytes = 4;
  std::string name;

  bool holds(const std::byte* at, uint64_t bytes) const {
    return at >= begin && bytes <= length &&
           static_cast<uint64_t>(at - begin) <= length - bytes;
  }
};

// Who makes an access, and when.
struct Accessor {
  uint32_t group = 0;   // index of the threadgroup
  uint32_t thread = 0;  // in the threadgroup
  uint32_t simdgroup = 0;
  uint32_t group_epoch = 0;      // barriers of the threadgroup so far
  uint32_t simdgroup_epoch = 0;  // of this simdgroup, both kinds
};

struct Access {
  const std::byte* at = nullptr;
  uint64_t bytes = 0;
  bool is_write = false;
  bool is_vector = false;  // which must be aligned to its size
  const void* pc = nullptr;
};

class Checker {
 public:
  void begin(std::vector<BoundView> views,
             const void* code_begin,
             const void* code_end);
  void begin_threadgroup(const std::byte* memory);
  // All lanes of a simdgroup have come to a collective, or returned.
  void synchronized(uint32_t simdgroup) { banks_.settle(simdgroup); }

  // False when the access is wrong; then problem() says what is.
  bool access(const Accessor& who,
              const Access& access,
              uint64_t memory_bytes,
              abi::Counters& counters);
  const std::string& problem() const { return problem_; }
  // Whether a check, by its name, is off for what an instruction does.
  std::function<bool(std::string_view, const void*)> is_allowed;
  // The earlier access of a conflict that was reported, or null.
  const void* other_pc() const { return other_pc_; }

  // After the launch: a stored result that was never computed.
  struct Poisoned {
    const BoundView* view = nullptr;
    uint64_t offset = 0;
    const void* pc = nullptr;
  };
  Poisoned find_poison() const;

  // Loads of device memory by width: 1, 2, 4, 8, 16 bytes.
  const std::array<uint64_t, 5>& load_widths() const { return load_widths_; }
  uint64_t bank_conflicts() const { return banks_.conflicts(); }

 private:
  static constexpr uint64_t kPageBytes = 4096;
  static constexpr size_t kRecent = 64;

  // Of one byte of threadgroup memory.  Addresses of code count from the
  // kernel's first.
  struct Cell {
    uint32_t write_group_epoch = 0, write_simdgroup_epoch = 0;
    uint32_t read_group_epoch = 0, read_simdgroup_epoch = 0;
    uint16_t writer = 0, reader = 0;  // thread + 1
    uint32_t write_pc : 31 = 0;
    uint32_t is_initialized : 1 = 0;
    uint32_t read_pc : 30 = 0;
    uint32_t has_many_readers : 1 = 0;  // lanes of one simdgroup
    uint32_t has_far_readers : 1 = 0;   // several simdgroups

    bool operator==(const Cell& other) const {
      return std::memcmp(this, &other, sizeof(Cell)) == 0;
    }
  };
  static_assert(std::has_unique_object_representations_v<Cell>);
  struct Owner {         // of one byte of device memory
    uint32_t group = 0;  // + 1
    uint32_t pc = 0;
  };
  using Page = std::array<Owner, kPageBytes>;

  bool group_access(const Accessor& who,
                    const Access& access,
                    abi::Counters& counters);
  bool device_access(const Accessor& who,
                     const Access& access,
                     abi::Counters& counters);
  bool own(const Accessor& who, const Access& access, const BoundView& view);
  const BoundView* find(const Access& access);
  Owner& owner_of(uintptr_t address);
  std::string outside(const Access& access) const;
  bool has_conflict(const Cell& cell, const Accessor& who, bool is_write);
  bool use(Cell& cell, const Accessor& who, const Access& access);
  void note(Cell& cell, const Accessor& who, const Access& access) const;
  bool complain(std::string_view check,
                const void* pc,
                const std::function<std::string()>& problem);
  uint32_t short_pc(const void* pc) const;
  const void* long_pc(uint32_t pc) const { return code_begin_ + pc; }

  std::vector<BoundView> views_;
  bool has_overlaps_ = false;  // of views
  // What instructions touched last, by some bits of their address.
  std::array<const BoundView*, kRecent> recent_{};
  BankCounter banks_;
  const std::byte* memory_ = nullptr;
  const std::byte* code_begin_ = nullptr;
  const std::byte* code_end_ = nullptr;
  std::vector<Cell> cells_;
  uint64_t used_ = 0;  // cells of this threadgroup that are not fresh, at most
  std::map<uintptr_t, Page> pages_;  // written ones
  // Of them, those used last, by some bits of their number.
  std::array<std::pair<uintptr_t, Page*>, 16> recent_pages_{};
  std::string problem_;
  const void* other_pc_ = nullptr;
  std::array<uint64_t, 5> load_widths_{};
};

}  // namespace orchard::sim
