// csrc/device/sim/check/words.cpp: names and keywords; see check.h.
#include <array>
#include <cctype>

#include "device/sim/check/check.h"

namespace orchard::sim::check {
namespace {

constexpr std::array<std::string_view, 7> kSpaces = {"device",
                                                     "constant",
                                                     "threadgroup",
                                                     "thread",
                                                     "threadgroup_imageblock",
                                                     "object_data",
                                                     "ray_data"};
constexpr std::array<std::string_view, 5> kStages = {
    "kernel", "vertex", "fragment", "visible", "stitchable"};
// What may stand before a stage.
constexpr std::array<std::string_view, 4> kBeforeStages = {
    "inline", "static", "extern", "constexpr"};

struct Missing {
  std::string_view word;
  std::string_view instead;
};
constexpr Missing kMissing[] = {
    {"goto", "write a loop or a condition"},
    {"asm", "call a function of Metal's library"},
    {"__asm__", "call a function of Metal's library"},
    {"__asm", "call a function of Metal's library"},
    {"try", "there are no exceptions: return a value that says so"},
    {"catch", "there are no exceptions: return a value that says so"},
    {"throw", "there are no exceptions: return a value that says so"},
    {"new", "declare a variable or an array of constant size"},
    {"virtual", "take the function as a template argument"},
    {"noexcept", "there is no such operator, as nothing throws"},
    {"typeid", "compare types with metal::is_same_v"},
    {"dynamic_cast", "use static_cast"},
    {"thread_local", "declare the variable in a function"},
    {"register", "leave it out"},
    {"double", "use float"},
};

// Keywords of C++14 besides the names of types.
constexpr std::string_view kKeywords[] = {"alignas",
                                          "alignof",
                                          "and",
                                          "and_eq",
                                          "asm",
                                          "auto",
                                          "bitand",
                                          "bitor",
                                          "break",
                                          "case",
                                          "catch",
                                          "class",
                                          "compl",
                                          "const_cast",
                                          "continue",
                                          "decltype",
                                          "default",
                                          "delete",
                                          "do",
                                          "dynamic_cast",
                                          "else",
                                          "enum",
                                          "explicit",
                                          "export",
                                          "false",
                                          "for",
                                          "friend",
                                          "goto",
                                          "if",
                                          "mutable",
                                          "namespace",
                                          "new",
                                          "noexcept",
                                          "not",
                                          "not_eq",
                                          "nullptr",
                                          "or",
                                          "or_eq",
                                          "private",
                                          "protected",
                                          "public",
                                          "register",
                                          "return",
                                          "sizeof",
                                          "static_assert",
                                          "static_cast",
                                          "struct",
                                          "switch",
                                          "template",
                                          "this",
                                          "thread_local",
                                          "throw",
                                          "true",
                                          "try",
                                          "typedef",
                                          "typeid",
                                          "typename",
                                          "union",
                                          "using",
                                          "virtual",
                                          "while",
                                          "xor",
                                          "xor_eq",
                                          "reinterpret_cast"};

// Keywords of OpenCL alone: plain names in Metal.
constexpr std::string_view kOpenClWords[] = {
    "local",          "global",          "generic",         "pipe",
    "read_only",      "write_only",      "read_write",      "vec_step",
    "addrspace_cast", "sampler_t",       "event_t",         "queue_t",
    "clk_event_t",    "reserve_id_t",    "image1d_t",       "image2d_t",
    "image3d_t",      "image1d_array_t", "image2d_array_t", "image1d_buffer_t"};
constexpr std::string_view kOpenClQualifiers[] = {
    "__global", "__local",     "__constant",   "__private",   "__generic",
    "__kernel", "__read_only", "__write_only", "__read_write"};

class Words {
 public:
  explicit Words(Unit& unit) : unit_(unit) {}

  void run() {
    for (size_t i = 0; i < unit_.size(); ++i) {
      if (unit_.in_attribute(i)) continue;
      if (unit_.is_word(i)) {
        check_stage(i);
        check_space(i);
        check_missing(i);
        check_opencl(i);
      }
      if (i > 0 && is_plain_type(unit_.at(i - 1).text)) check_name(i);
    }
  }

 private:
  const std::string& word(size_t i) { return unit_.at(i).text; }

  [[noreturn]] void refuse_name(size_t i, const std::string& why) {
    unit_.refuse(i, "'" + word(i) + "' is " + why +
                        " and cannot be a name: choose another");
  }

  // Before a function's type, and nowhere else.
  void check_stage(size_t i) {
    if (!contains(kStages, word(i))) return;
    size_t k = unit_.begin(i);
    while (k < i) {
      if (unit_.is_attribute(k)) {
        k = unit_.closing(k) + 1;
      } else if (unit_.is(k, "template")) {
        k = unit_.is(k + 1, "<") ? unit_.skip_angles(k + 1) : k + 1;
      } else if (const size_t end = unit_.skip_call(k); end != k) {
        k = end;
      } else if (contains(kBeforeStages, word(k)) ||
                 unit_.at(k).kind == TokenKind::text) {
        ++k;
      } else {
        break;
      }
    }
    const bool is_first = k == i && !unit_.in_parentheses(i);
    const bool is_before_type = unit_.is_word(i + 1) || unit_.is(i + 1, "::") ||
                                unit_.is_attribute(i + 1);
    if (!is_first || !is_before_type) {
      refuse_name(i, "a keyword of Metal (it marks functions of a stage)");
    }
    if (unit_.scope(i) == Scope::record) {
      unit_.refuse(i, "a " + word(i) +
                          " function is no member: declare it outside the "
                          "struct");
    }
    if (unit_.scope(i) != Scope::space) {
      refuse_name(i, "a keyword of Metal (it marks functions of a stage)");
    }
    unit_.rewrite(i, "");
  }

  void check_space(size_t i) {
    if (word(i) == "coherent" && unit_.version() >= 320) {
      if (unit_.is(i + 1, "(")) {
        unit_.rewrite(i, unit_.closing(i + 1) + 1, "");
        return;
      }
      if (unit_.is_word(i + 1)) return unit_.rewrite(i, "");
      refuse_name(i, "a keyword of Metal from 3.2 on (memory coherence)");
    }
    if (!is_space(word(i))) return;
    const bool is_member = i > 0 && (unit_.is(i - 1, ".") ||
                                     (i > 1 && unit_.is_pair(i - 2, "-", ">")));
    const bool is_qualifier = unit_.is_word(i + 1) || unit_.is(i + 1, "*") ||
                              unit_.is(i + 1, "&") || unit_.is(i + 1, "::") ||
                              unit_.is(i + 1, "(");
    if (!is_member && (is_qualifier || follows_list(i))) return;
    refuse_name(i, "a keyword of Metal (an address space)");
  }

  // A member function's qualifier stands behind its parameters.
  bool follows_list(size_t i) {
    for (size_t k = i; k > 0; --k) {
      if (unit_.is(k - 1, ")")) return true;
      if (!unit_.is(k - 1, "const") && !unit_.is(k - 1, "volatile") &&
          !is_space(word(k - 1))) {
        return false;
      }
    }
    return false;
  }

  void check_missing(size_t i) {
    for (const Missing& missing : kMissing) {
      if (word(i) != missing.word) continue;
      // Behind a member function's parameters it changes nothing.
      if (word(i) == "noexcept" && follows_list(i) &&
          (unit_.scope(i) == Scope::record || unit_.has_internals(i))) {
        const size_t end =
            unit_.is(i + 1, "(") ? unit_.closing(i + 1) + 1 : i + 1;
        return unit_.rewrite(i, end, "");
      }
      unit_.refuse(i, "'" + word(i) + "' is not supported in Metal: " +
                          std::string(missing.instead));
    }
    if (word(i) == "delete" && !(i > 0 && unit_.is(i - 1, "="))) {
      unit_.refuse(i,
                   "'delete' is not supported in Metal: nothing is "
                   "allocated, leave it out");
    }
    if (word(i) == "long") {
      size_t k = i + 1;
      while (unit_.is(k, "int") || unit_.is(k, "unsigned") ||
             unit_.is(k, "signed") || unit_.is(k, "const")) {
        ++k;
      }
      if (unit_.is(k, "long")) {
        unit_.refuse(i,
                     "'long long' is not supported in Metal: long has 64 "
                     "bits");
      }
    }
  }

  void check_opencl(size_t i) {
    if (contains(kOpenClQualifiers, word(i))) {
      unit_.refuse(i, "'" + word(i) +
                          "' is OpenCL's: write device, constant, "
                          "threadgroup, thread or kernel");
    }
    if (contains(kOpenClWords, word(i))) unit_.rewrite(i, "msl_" + word(i));
  }

  // What stands behind a type where a name should.
  void check_name(size_t i) {
    if (contains(kKeywords, word(i)) && unit_.is_word(i)) {
      refuse_name(i, "a keyword of C++");
    }
    if (word(i) == "bfloat" && unit_.version() >= 310 && ends_name(i + 1)) {
      refuse_name(i, "a keyword of Metal from 3.1 on (a type)");
    }
    const bool is_number = unit_.at(i).kind == TokenKind::number;
    const bool is_infinity = unit_.is(i, "__builtin_inff") ||
                             unit_.is(i, "__builtin_inf") ||
                             unit_.is(i, "__builtin_nanf");
    const bool is_assert = unit_.is_pair(i, "(", "(") &&
                           unit_.is_pair(i + 2, "void", ")") &&
                           unit_.is_pair(i + 4, "0", ")");
    // int (-2147483647 - 1) = …
    const bool is_minimum = unit_.starts(i - 1) && unit_.is_pair(i, "(", "-") &&
                            unit_.is(unit_.closing(i) + 1, "=");
    // Macros are gone here: what they stood for is left.
    if (is_minimum || is_number || is_infinity || is_assert) {
      unit_.refuse(i,
                   "a name was expected, and a macro of Metal's library "
                   "stands here (assert, or a constant such as MAXFLOAT, "
                   "INFINITY or M_PI_F): choose another name");
    }
  }

  bool ends_name(size_t i) {
    for (const char* mark : {"=", ";", ",", ")", "[", "(", "{", ":"}) {
      if (unit_.is(i, mark)) return true;
    }
    return false;
  }

  Unit& unit_;
};

}  // namespace

bool is_space(std::string_view word) { return contains(kSpaces, word); }

bool is_plain_type(std::string_view word) {
  constexpr std::string_view names[] = {
      "void",     "bool",     "char",    "short",   "int",      "long",
      "unsigned", "signed",   "float",   "half",    "bfloat",   "uchar",
      "ushort",   "uint",     "ulong",   "auto",    "size_t",   "ptrdiff_t",
      "int8_t",   "uint8_t",  "int16_t", "int32_t", "uint32_t", "uint16_t",
      "int64_t",  "uint64_t", "double"};
  if (contains(names, word)) return true;
  if (word.starts_with("packed_")) word.remove_prefix(7);
  constexpr std::string_view elements[] = {"bool",  "char",  "short", "int",
                                           "long",  "uchar", "uint",  "ushort",
                                           "ulong", "half",  "float", "bfloat"};
  const auto is_size = [](char c) { return c >= '2' && c <= '4'; };
  if (word.size() < 4 || !is_size(word.back())) return false;
  if (word.size() > 6 && word[word.size() - 2] == 'x' &&
      is_size(word[word.size() - 3])) {
    word.remove_suffix(2);
  }
  word.remove_suffix(1);
  return contains(elements, word);
}

void check_words(Unit& unit) { Words(unit).run(); }

}  // namespace orchard::sim::check
