// csrc/device/sim/compile/lines.h: source lines of addresses in a compiled
// kernel.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace orchard::sim {

// Reads the DWARF 4 line table (.debug_line) of an ELF file, once.
class LineTable {
 public:
  explicit LineTable(const std::string& path);
  // "file:line" of an address relative to the load address, or "".
  std::string find(uint64_t address) const;

 private:
  struct Place {
    std::string file;
    uint64_t line = 0;
  };
  void read_unit(const std::string& data, uint64_t& at);

  std::map<uint64_t, Place> rows_;  // line 0 ends a sequence
};

}  // namespace orchard::sim
