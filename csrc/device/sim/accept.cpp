// csrc/device/sim/accept.cpp: see accept.h.
#include "device/sim/accept.h"

#include <algorithm>
#include <array>
#include <bit>
#include <sstream>
#include <utility>

#include "device/device.h"
#include "device/sim/token_list.h"

namespace orchard::sim {
namespace {

constexpr std::array<std::string_view, 4> kSpaces = {"device", "constant",
                                                     "threadgroup", "thread"};
// Metal wants one type for all of these that a kernel has.
constexpr std::array<std::string_view, 7> kPositions = {
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_grid",
    "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup"};
// Words after which * and & are operators.
constexpr std::array<std::string_view, 5> kOperators = {
    "return", "else", "case", "sizeof", "operator"};

template <class Words>
bool contains(const Words& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

class Acceptor : TokenList {
 public:
  explicit Acceptor(std::string_view text) : TokenList(text) {}

  std::string run() {
    bool is_start = true;  // of a declaration or statement
    for (size_t i = 0; i < size(); ++i) {
      if (is_attribute(i)) {
        for (const Attribute& a : take_attributes(i)) {
          is_kernel_ = is_kernel_ || a.name == "kernel";
        }
        i -= 1;
        continue;
      }
      if (is_start) check_declarator(i, false);
      is_start = step(i);
    }
    return text();
  }

 private:
  [[noreturn]] void refuse(size_t i, const std::string& what) {
    throw Error(ErrorKind::compile, "simulator: Metal does not accept this\n" +
                                        place(i) + ": error: " + what);
  }

  // A kernel's brace carries the variables that take_kernel() put there.
  bool opens_body(size_t i) { return at(i).text.starts_with('{'); }

  // Whether a declaration or statement starts after token i.
  bool step(size_t i) {
    if (is(i, "kernel")) {
      at(i).text = "";
      is_kernel_ = true;
    } else if (is(i, "(")) {
      open(i);
    } else if (is(i, "<")) {
      check_declarator(i + 1, true);
    } else if (opens_body(i)) {
      // Inside a body nothing is a parameter list.
      if (body_ > 0 || (i > 0 && (is(i - 1, ")") || is(i - 1, "const")))) {
        ++body_;
      }
    } else if (is(i, "}") && body_ > 0) {
      --body_;
    }
    return opens_body(i) || is(i, "}") || is(i, ";") ||
           (is(i, "(") && i > 0 && is(i - 1, "for"));
  }

  void open(size_t i) {
    if (body_ > 0) return check_declarator(i + 1, true);
    if (i == 0 || !is_word(i - 1)) return;
    for (const char* word : {"decltype", "__attribute__", "static_assert"}) {
      if (is(i - 1, word)) return;
    }
    if (is_kernel_) {
      take_kernel(i);
    } else {
      each_parameter(
          i, [&](size_t begin, size_t) { check_declarator(begin, false); });
    }
    is_kernel_ = false;
  }

  // Calls f(begin, end) for each parameter of the list that opens at i.
  template <class Function>
  void each_parameter(size_t i, Function f) {
    int angles = 0;
    size_t begin = i + 1;
    for (size_t k = i + 1; k < size(); ++k) {
      if (is(k, "<")) ++angles;
      if (is(k, ">")) --angles;
      const bool is_end = is(k, ")");
      if (is_end || (is(k, ",") && angles == 0)) {
        if (k > begin) f(begin, k);
        begin = k + 1;
      } else if (is(k, "(") || is(k, "{") || (is(k, "[") && !is_attribute(k))) {
        k = closing(k);
      } else if (is_attribute(k)) {
        k = closing(k);
      }
      if (is_end) return;
    }
  }

  // A type that points must name an address space.  `is_cast`: the pointer's
  // mark is followed by the end of the type instead of a name.
  void check_declarator(size_t begin, bool is_cast) {
    bool has_space = false;
    size_t words = 0;
    for (size_t k = begin; k < size(); ++k) {
      if (is(k, "*") || is(k, "&")) {
        const bool is_type =
            is_cast ? is(k + 1, ")") || is(k + 1, ">")
                    : is_word(k + 1) || is(k + 1, ",") || is(k + 1, ")");
        if (words == 0 || !is_type || has_space) return;
        refuse(k, "pointer or reference without an address space: " +
                      join(begin, k + 2));
      } else if (is_word(k)) {
        if (contains(kOperators, at(k).text)) return;
        has_space = has_space || contains(kSpaces, at(k).text);
        ++words;
      } else if (is(k, "<")) {
        const size_t end = skip_angles(k);
        if (end >= size()) return;  // it was "less than"
        k = end - 1;
      } else if (!is(k, "::")) {
        return;
      }
    }
  }

  // OpenCL has no attributes, and gives no class to a kernel by value: such
  // parameters become variables of its body.
  void take_kernel(size_t i) {
    std::string variables;
    std::string position, index;
    std::vector<std::pair<size_t, size_t>> moved;
    std::vector<std::vector<Attribute>> attributes(1);
    for (size_t k = i + 1; !is(k, ")"); ++k) {
      while (is_attribute(k)) {
        for (Attribute& a : take_attributes(k)) {
          attributes.back().push_back(std::move(a));
        }
      }
      if (is(k, ",")) attributes.emplace_back();
      if (is(k, ")")) break;
    }
    size_t p = 0;
    each_parameter(i, [&](size_t from, size_t to) {
      check_declarator(from, false);
      const auto& own = attributes[p++];
      const bool is_bound = own.empty() || own[0].name == "buffer" ||
                            own[0].name == "threadgroup";
      if (is_bound) return;
      check_attribute(from, to, own[0].name, position, index);
      variables.append(1, ' ').append(join(from, to)).append("{};");
      moved.emplace_back(from, to);
    });
    for (auto range = moved.rbegin(); range != moved.rend(); ++range) {
      // With the comma before it, or after it where it is the first.
      const bool is_first = range->first == i + 1;
      const bool is_alone = is_first && is(range->second, ")");
      erase(is_first ? range->first : range->first - 1,
            range->second + (is_first && !is_alone ? 1 : 0));
    }
    size_t k = closing(i) + 1;
    while (!is(k, "{") && !is(k, ";")) ++k;
    if (is(k, "{")) at(k).text += variables;
    mark_kernel(i);
  }

  // OpenCL's word stands before the return type.
  void mark_kernel(size_t i) {
    if (i < 2 || !is(i - 2, "void")) refuse(i - 1, "a kernel returns void");
    at(i - 2).text = "__kernel void";
  }

  void check_attribute(size_t from,
                       size_t to,
                       const std::string& name,
                       std::string& position,
                       std::string& index) {
    const std::string type = join(from, to - 1);
    const bool is_position = contains(kPositions, name);
    const std::string scalar = type.substr(0, type.find_first_of("234"));
    if (scalar != "uint" && scalar != "ushort") {
      refuse(from, "attribute " + name +
                       " must be uint or ushort, or a vector "
                       "of them, not " +
                       type);
    }
    if (is_position) {
      if (position.empty()) position = type;
      if (type != position) {
        refuse(from, "attribute " + name + " is " + type +
                         ", another position attribute is " + position +
                         ": all must have one type");
      }
    } else if (type != scalar) {
      refuse(from, "attribute " + name + " must be a scalar, not " + type);
    }
    if (index.empty()) index = scalar;
    if (scalar != index) {
      refuse(from, "attribute " + name + " is " + type +
                       ", another attribute is " + index +
                       ": all must have one width");
    }
  }

  int body_ = 0;  // depth of braces inside a function
  bool is_kernel_ = false;
};

// Of a type in LLVM assembly: numbers, vectors of Metal's, arrays of either.
uint64_t bytes_of(const std::string& type, const std::string& assembly) {
  constexpr std::pair<const char*, uint64_t> sizes[] = {
      {"i8", 1},    {"i16", 2}, {"half", 2}, {"i32", 4},
      {"float", 4}, {"i64", 8}, {"ptr", 8}};
  if (type.starts_with('[')) {
    const size_t by = type.find(" x ");
    return std::stoull(type.substr(1)) *
           bytes_of(type.substr(by + 3), assembly);
  }
  for (const auto& [name, bytes] : sizes) {
    if (type.starts_with(name)) return bytes;
  }
  constexpr std::string_view vector = "%\"struct.metal::vec";
  if (type.starts_with(vector)) {
    // %"name" = type { element, … }; three take the room of four.
    const std::string name = type.substr(0, type.find('"', 2) + 1);
    const std::string start = "\n" + name + " = type { ";
    const size_t body = assembly.find(start) + start.size();
    const std::string members =
        assembly.substr(body, assembly.find(" }", body) - body);
    const auto more = std::count(members.begin(), members.end(), ',');
    return std::bit_ceil(static_cast<uint64_t>(more) + 1) *
           bytes_of(members, assembly);
  }
  throw Error(ErrorKind::compile,
              "simulator: cannot tell the size of a threadgroup variable of "
              "type " +
                  type + "; use arrays of numbers or vectors");
}

}  // namespace

std::string accept(std::string_view preprocessed) {
  return Acceptor(preprocessed).run();
}

uint64_t declared_threadgroup_bytes(const std::string& assembly) {
  constexpr std::string_view declared = "addrspace(3) global ";
  uint64_t bytes = 0;
  std::istringstream lines(assembly);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(declared);
    if (at != line.npos) {
      bytes += bytes_of(line.substr(at + declared.size()), assembly);
    }
  }
  return bytes;
}

std::vector<std::string> spilled_types(const std::string& assembly) {
  constexpr std::string_view on_stack = " = alloca ";
  std::vector<std::string> found;
  std::istringstream lines(assembly);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(on_stack);
    if (at == line.npos) continue;
    const std::string type = line.substr(at + on_stack.size());
    found.push_back(type.substr(0, type.find(", align")));
  }
  return found;
}

}  // namespace orchard::sim
