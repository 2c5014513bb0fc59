// csrc/device/sim/compile/lines.cpp: see lines.h; the format is in "DWARF
// Debugging Information Format, version 4", section 6.2.
#include "device/sim/compile/lines.h"

#include <cstring>
#include <vector>

#if defined(__linux__)
#include <elf.h>
#endif

#include "device/sim/compile/files.h"

namespace orchard::sim {
namespace {

// Reads numbers from bytes; past the end it gives zeros.
class Cursor {
 public:
  Cursor(const std::string& data, uint64_t at) : data_(data), at_(at) {}

  template <class T>
  T fixed() {
    T value{};
    if (at_ + sizeof(T) <= data_.size()) {
      std::memcpy(&value, data_.data() + at_, sizeof(T));
    }
    at_ += sizeof(T);
    return value;
  }
  uint64_t unsigned_number() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = fixed<uint8_t>();
      value |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) break;
    }
    return value;
  }
  int64_t signed_number() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64;) {
      const auto byte = fixed<uint8_t>();
      value |= uint64_t{byte & 0x7fu} << shift;
      shift += 7;
      if ((byte & 0x80) != 0) continue;
      if ((byte & 0x40) != 0 && shift < 64) value |= ~uint64_t{0} << shift;
      break;
    }
    return static_cast<int64_t>(value);
  }
  std::string text() {
    std::string value;
    while (at_ < data_.size() && data_[at_] != 0) value += data_[at_++];
    ++at_;
    return value;
  }
  uint64_t at() const { return at_; }
  void go(uint64_t at) { at_ = at; }
  bool has_more(uint64_t end) const { return at_ < end && at_ < data_.size(); }

 private:
  const std::string& data_;
  uint64_t at_;
};

struct Header {
  uint64_t end = 0;
  uint8_t minimum = 1;
  int8_t line_base = 0;
  uint8_t line_range = 1;
  uint8_t opcode_base = 1;
  std::vector<uint8_t> lengths;
  std::vector<std::string> files;
  bool is_valid = false;
};

Header read_header(Cursor& in) {
  Header h;
  const uint64_t length = in.fixed<uint32_t>();
  h.end = in.at() + length;
  const auto version = in.fixed<uint16_t>();
  const uint64_t header_length = in.fixed<uint32_t>();
  const uint64_t program = in.at() + header_length;
  h.is_valid = length != 0 && version >= 2 && version <= 4;
  if (!h.is_valid) return h;
  h.minimum = in.fixed<uint8_t>();
  if (version >= 4) in.fixed<uint8_t>();
  in.fixed<uint8_t>();
  h.line_base = in.fixed<int8_t>();
  h.line_range = in.fixed<uint8_t>();
  h.opcode_base = in.fixed<uint8_t>();
  h.is_valid = h.line_range != 0 && h.opcode_base != 0;
  for (int i = 1; i < h.opcode_base; ++i) {
    h.lengths.push_back(in.fixed<uint8_t>());
  }
  std::vector<std::string> folders(1);  // The first is where it was compiled.
  while (in.has_more(program)) {
    folders.push_back(in.text());
    if (folders.back().empty()) break;
  }
  h.files.emplace_back();
  while (in.has_more(program)) {
    std::string name = in.text();
    if (name.empty()) break;
    const uint64_t folder = in.unsigned_number();
    for (int i = 0; i < 2; ++i) in.unsigned_number();
    if (folder > 0 && folder < folders.size() && name[0] != '/') {
      name.insert(0, folders[folder] + "/");
    }
    h.files.push_back(std::move(name));
  }
  in.go(program);
  return h;
}

std::string debug_line_of(const std::string& file) {
#if defined(__linux__)
  if (file.size() < sizeof(Elf64_Ehdr)) return {};
  Elf64_Ehdr header;
  std::memcpy(&header, file.data(), sizeof(header));
  const auto section = [&](uint64_t i) {
    Elf64_Shdr row{};
    const uint64_t at = header.e_shoff + i * sizeof(row);
    if (at + sizeof(row) <= file.size()) {
      std::memcpy(&row, file.data() + at, sizeof(row));
    }
    return row;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr row = section(i);
    const uint64_t name = names.sh_offset + row.sh_name;
    if (name < file.size() &&
        std::strcmp(file.c_str() + name, ".debug_line") == 0) {
      return file.substr(row.sh_offset, row.sh_size);
    }
  }
#else
  (void)file;
#endif
  return {};
}

}  // namespace

LineTable::LineTable(const std::string& path) {
  const std::string data = debug_line_of(read_file(path));
  for (uint64_t at = 0; at < data.size();) read_unit(data, at);
}

void LineTable::read_unit(const std::string& data, uint64_t& at) {
  Cursor in(data, at);
  const Header h = read_header(in);
  at = h.end > at ? h.end : data.size();
  if (!h.is_valid) return;
  uint64_t address = 0, file = 1, line = 1;
  const auto reset = [&] { address = 0, file = 1, line = 1; };
  const auto emit = [&](uint64_t shown) {
    rows_[address] = {file < h.files.size() ? h.files[file] : "", shown};
  };
  const auto advance = [&](uint64_t by) { address += by * h.minimum; };
  while (in.has_more(h.end)) {
    const auto opcode = in.fixed<uint8_t>();
    if (opcode >= h.opcode_base) {
      const int adjusted = opcode - h.opcode_base;
      advance(static_cast<uint64_t>(adjusted / h.line_range));
      line += static_cast<uint64_t>(h.line_base + adjusted % h.line_range);
      emit(line);
      continue;
    }
    switch (opcode) {
      case 0: {  // extended
        const uint64_t length = in.unsigned_number();
        const uint64_t next = in.at() + length;
        const auto kind = in.fixed<uint8_t>();
        if (kind == 1) emit(0), reset();
        if (kind == 2) address = in.fixed<uint64_t>();
        in.go(next);
        break;
      }
      case 1:
        emit(line);
        break;
      case 2:
        advance(in.unsigned_number());
        break;
      case 3:
        line += static_cast<uint64_t>(in.signed_number());
        break;
      case 4:
        file = in.unsigned_number();
        break;
      case 5:
        in.unsigned_number();
        break;
      case 8:
        advance(uint64_t(255 - h.opcode_base) / h.line_range);
        break;
      case 9:
        address += in.fixed<uint16_t>();
        break;
      default:
        if (opcode <= h.lengths.size() && opcode > 9) {
          for (int i = 0; i < h.lengths[opcode - 1u]; ++i) {
            in.unsigned_number();
          }
        }
    }
  }
}

std::string LineTable::find(uint64_t address) const {
  auto found = rows_.upper_bound(address);
  if (found == rows_.begin()) return {};
  const Place& place = (--found)->second;
  if (place.line == 0) return {};
  return place.file + ":" + std::to_string(place.line);
}

}  // namespace orchard::sim
