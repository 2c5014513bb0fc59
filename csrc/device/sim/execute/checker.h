// csrc/device/sim/execute/checker.h: strict mode: bounds, alignment, races and
// uninitialized memory, access by access.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
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

class Checker {
 public:
  void begin(std::vector<BoundView> views,
             const void* code_begin,
             const void* code_end);
  void begin_threadgroup(const std::byte* memory);
  // All lanes of a simdgroup have come to a collective, or returned.
  void synchronized(uint32_t simdgroup) { banks_.settle(simdgroup); }

  // Empty when the access is right, else what is wrong with it.
  std::string access(const Accessor& who,
                     const std::byte* at,
                     uint64_t bytes,
                     bool is_write,
                     bool is_vector,
                     const void* pc,
                     uint64_t memory_bytes,
                     abi::Counters& counters);

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
  struct Cell {  // of one byte of threadgroup memory
    uint32_t write_group_epoch = 0, write_simdgroup_epoch = 0;
    uint32_t read_group_epoch = 0, read_simdgroup_epoch = 0;
    uint16_t writer = 0, reader = 0;  // thread + 1
    bool has_many_readers = false;    // lanes of one simdgroup
    bool has_far_readers = false;     // several simdgroups
    bool is_initialized = false;
    const void* write_pc = nullptr;
    const void* read_pc = nullptr;
  };
  struct Owner {         // of one byte of device memory
    uint32_t group = 0;  // + 1
    const void* pc = nullptr;
  };

  std::string group_access(const Accessor& who,
                           uint64_t offset,
                           uint64_t bytes,
                           bool is_write,
                           const void* pc,
                           abi::Counters& counters);
  std::string device_access(const Accessor& who,
                            const std::byte* at,
                            uint64_t bytes,
                            bool is_write,
                            const void* pc,
                            abi::Counters& counters);
  std::string outside(const std::byte* at, uint64_t bytes, bool is_write) const;
  const void* conflict(const Cell& cell,
                       const Accessor& who,
                       bool is_write) const;
  static void note(Cell& cell,
                   const Accessor& who,
                   bool is_write,
                   const void* pc);

  std::vector<BoundView> views_;
  BankCounter banks_;
  const std::byte* memory_ = nullptr;
  const std::byte* code_begin_ = nullptr;
  const std::byte* code_end_ = nullptr;
  std::vector<Cell> cells_;
  std::map<const std::byte*, Owner> owners_;
  const void* other_pc_ = nullptr;

 public:
  // The earlier access of the conflict that was reported last.
  const void* other_pc() const { return other_pc_; }
  std::array<uint64_t, 5> load_widths_{};
};

}  // namespace orchard::sim
