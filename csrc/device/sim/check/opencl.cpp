// csrc/device/sim/check/opencl.cpp: see opencl.h.
#include "device/sim/check/opencl.h"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <vector>

#include "device/sim/compile/token_list.h"

namespace orchard::sim {
namespace {

bool is_class_word(const std::string& word) {
  return word == "struct" || word == "class" || word == "union";
}

class Writer : TokenList {
 public:
  explicit Writer(std::string_view text) : TokenList(text) {}

  std::string run() {
    for (size_t i = 0; i < size(); ++i) {
      if (is(i, "{")) {
        braces_.push_back(false);
      } else if (is(i, "}") && !braces_.empty()) {
        braces_.pop_back();
      } else if (is_word(i) && is_class_word(at(i).text)) {
        i = take_class(i);
      } else if (is(i, "namespace") || is(i, "extern")) {
        i = take_space(i);
      } else if (at(i).kind == TokenKind::number) {
        take_number(i);
      } else if (is(i, "template") && is(i + 1, "<")) {
        take_template(i + 1);
      } else if (is(i, "typedef") || is(i, "using")) {
        take_alias(i);
      } else if (is(i, "thread") || is(i, "constant")) {
        take_qualifier(i);
      }
    }
    return text();
  }

 private:
  // A function's pointer as a parameter never finds its function here, a
  // reference to a function does.
  void take_template(size_t i) {
    const size_t end = skip_angles(i);
    for (size_t k = i + 1; k + 1 < end; ++k) {
      if (is(k, "(") && is(k + 1, "*") && is_word(k + 2) && is(k + 3, ")") &&
          is(k + 4, "(")) {
        at(k + 1).text = "&";
      } else if (is_word(k) && pointers_.count(at(k).text) != 0 &&
                 (is(k - 1, "<") || is(k - 1, ","))) {
        const size_t last = is(k + 1, "<") ? skip_angles(k + 1) - 1 : k;
        at(k).text.insert(0, "decltype(*");
        at(last).text += "(nullptr))";
        k = last;
      }
    }
  }

  // Names of pointers to functions: typedef void (*Name)(…), and
  // using Name = void (*)(…).
  void take_alias(size_t i) {
    const bool is_using = is(i, "using");
    for (size_t k = i + 1; k < size() && !is(k, ";") && !is(k, "{"); ++k) {
      if (!is(k, "(") || !is(k + 1, "*")) continue;
      pointers_.insert(at(is_using ? i + 1 : k + 2).text);
      return;
    }
  }

  // Of a member function, behind its parameters.  Without any it is called for
  // objects of all spaces but constant, temporary ones among them, which are
  // not in thread space here.
  void take_qualifier(size_t i) {
    size_t k = i;
    while (k > 0 && (is(k - 1, "const") || is(k - 1, "volatile"))) --k;
    if (k == 0 || !is(k - 1, ")")) return;
    at(i).text = is(i, "thread") ? "" : "__constant";
  }

  // Braces that stand in a function, not in a class or namespace.
  bool is_local() const {
    return std::find(braces_.begin(), braces_.end(), false) != braces_.end();
  }

  size_t take_space(size_t i) {
    size_t k = i + 1;
    while (is_word(k) || is(k, "::") || at_text(k)) ++k;
    if (!is(k, "{")) return i;
    braces_.push_back(true);
    return k;
  }

  bool at_text(size_t k) { return k < size() && at(k).kind == TokenKind::text; }

  // From `struct` to its brace, if it has one.
  size_t take_class(size_t i) {
    if (i > 0 && (is(i - 1, "enum") || is(i - 1, "<") || is(i - 1, ","))) {
      return i;
    }
    size_t k = i + 1;
    size_t name = 0;
    while (k < size() && !is(k, "{")) {
      if (is(k, "(") && name == 0) {
        k = closing(k) + 1;  // of alignas
      } else if (is(k, "<")) {
        k = skip_angles(k);
      } else if (is(k, ":")) {
        while (k < size() && !is(k, "{")) ++k;
      } else if (is_word(k)) {
        if (is(k + 1, "(")) {
          if (!is(k, "alignas") && !is(k, "__attribute__")) return i;
        } else if (!is(k, "final")) {
          if (name != 0) return i;  // a variable of that type
          name = k;
        }
        ++k;
      } else {
        return i;
      }
    }
    if (k >= size()) return i;
    take_body(i, name, k);
    braces_.push_back(true);
    return k;
  }

  void take_body(size_t keyword, size_t name, size_t brace) {
    const bool has_local = is_local();
    std::string called;
    if (name != 0) {
      called = at(name).text;
    } else {
      // Without a name and without a variable its members are its owner's.
      if (is(closing(brace) + 1, ";")) return;
      called = "msl_unnamed" + std::to_string(++unnamed_);
      at(keyword).text += " " + called;
    }
    std::string more =
        has_own_constructor(called, brace) ? "" : called + "() = default; ";
    if (copies_itself(called, brace)) return;
    more += (has_local ? "MSL_LOCAL_COPIES(" : "MSL_COPIES(") + called + ")";
    const bool is_private = is(keyword, "class");
    at(brace).text +=
        is_private ? " public: " + more + " private: " : " " + more;
  }

  // Whether `Name(` declares a constructor in the body at `brace`.
  template <class Function>
  bool any_constructor(const std::string& name, size_t brace, Function f) {
    const size_t end = closing(brace);
    for (size_t k = brace + 1; k < end; ++k) {
      if (is(k, "{") || is(k, "(")) {
        k = closing(k);
      } else if (is(k, name) && !is(k - 1, "~")) {
        const size_t open = is(k + 1, "<") ? skip_angles(k + 1) : k + 1;
        if (is(open, "(") && f(open)) return true;
      }
    }
    return false;
  }

  bool has_own_constructor(const std::string& name, size_t brace) {
    return any_constructor(name, brace, [](size_t) { return true; });
  }

  bool copies_itself(const std::string& name, size_t brace) {
    return any_constructor(name, brace, [&](size_t open) {
      const size_t end = closing(open);
      for (size_t m = open + 1; m < end; ++m) {
        if (is(m, name) && (is(m + 1, "&") || is(m + 1, "const"))) return true;
      }
      return false;
    });
  }

  // bfloat has no numbers here, and what has no suffix would be a double after
  // all in a template.
  void take_number(size_t i) {
    std::string& number = at(i).text;
    const bool is_hex = number.starts_with("0x") || number.starts_with("0X");
    const bool is_float = is_hex ? number.find_first_of("pP") != number.npos
                                 : number.find_first_of(".eE") != number.npos;
    if (!is_hex || is_float) {
      const bool is_bfloat = number.ends_with("bf") || number.ends_with("BF");
      if (is_bfloat) {
        number = "bfloat(" + number.substr(0, number.size() - 2) + "f)";
        if (!is_float) number.replace(number.size() - 2, 2, ".0f)");
        return;
      }
    }
    const char last = number.back();
    if (is_float &&
        (std::isdigit(static_cast<unsigned char>(last)) != 0 || last == '.')) {
      number += "f";
    }
  }

  std::vector<bool> braces_;        // whether each is of a class or a namespace
  std::set<std::string> pointers_;  // types of pointers to functions
  size_t unnamed_ = 0;
};

}  // namespace

std::string to_opencl(std::string_view text) {
  // Its macros are gone, and a number is no rule of the language's.
  static const auto* const unroll =
      new std::regex(R"(\n#pragma unroll *\([^\n]*\()");
  return Writer(std::regex_replace(std::string(text), *unroll,
                                   "\n#pragma unroll\n//(("))
      .run();
}

}  // namespace orchard::sim
