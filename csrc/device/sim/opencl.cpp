// csrc/device/sim/opencl.cpp: see opencl.h.
#include "device/sim/opencl.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "device/sim/token_list.h"

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
      } else if (is(k, name) && is(k + 1, "(") && !is(k - 1, "~") && f(k)) {
        return true;
      }
    }
    return false;
  }

  bool has_own_constructor(const std::string& name, size_t brace) {
    return any_constructor(name, brace, [](size_t) { return true; });
  }

  bool copies_itself(const std::string& name, size_t brace) {
    return any_constructor(name, brace, [&](size_t k) {
      const size_t end = closing(k + 1);
      for (size_t m = k + 2; m < end; ++m) {
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

// A line as the preprocessor's markers count it, and a column of the text.
using Place = std::pair<size_t, size_t>;
using Places = std::set<Place>;

// Of the tokens that a TokenList counts, where the compiler says they are.
std::vector<Place> token_places(std::string_view text) {
  std::vector<Place> found;
  size_t line = 1;
  size_t column = 1;
  for (const Token& token : tokenize(text)) {
    if (token.kind != TokenKind::space) found.emplace_back(line, column);
    for (size_t k = 0; k < token.text.size(); ++k) {
      ++column;
      if (token.text[k] != '\n') continue;
      ++line;
      column = 1;
      // The preprocessor's marker, # 12 "file", numbers the line after it.
      if (token.text.compare(k + 1, 2, "# ") == 0) {
        line = std::strtoul(token.text.c_str() + k + 3, nullptr, 10) - 1;
      }
    }
  }
  return found;
}

Places places_of(const std::string& message, const char* complaint) {
  const std::regex pattern(std::string(R"(:(\d+):(\d+): error: )") + complaint);
  Places places;
  for (std::sregex_iterator m(message.begin(), message.end(), pattern), end;
       m != end; ++m) {
    places.emplace(std::stoul((*m)[1]), std::stoul((*m)[2]));
  }
  return places;
}

class Repairer : TokenList {
 public:
  explicit Repairer(std::string_view text)
      : TokenList(text), places_(token_places(text)) {}

  std::string run(const std::string& message) {
    const Places ununified = places_of(message, "incompatible operand types");
    const Places members =
        places_of(message,
                  "binding reference of type '__private [^\n]*' to value of "
                  "type '__generic [^\n]*' changes address space");
    // That of another space is none, though of another number it is.
    static const auto* const temporary = new std::regex(
        "cannot bind reference in default address space to object in address "
        "space '__private'|"
        "that would make '(const )?__private |"
        "binding reference of type 'const __private [^\n]*' to value of type "
        "'(?!(const )?__)|"
        "reference of type 'const __private (\\w*int|\\w*short|\\w*char|"
        "\\w*long|half|float|bool) &' cannot bind to a temporary object");
    const bool has_temporary = std::regex_search(message, *temporary);
    for (size_t i = 0; i < size(); ++i) {
      if (is(i, "?") && ununified.count(places_[i]) != 0) wrap(i);
      if (members.count(places_[i]) != 0) take_member(i);
      if (has_temporary && is(i, "&")) relax(i);
    }
    return text();
  }

 private:
  void take_member(size_t i) {
    const size_t end = end_of(i, false);
    if (end >= size()) return;
    at(i).text.insert(0, "metal::msl_in_thread(");
    at(end).text.insert(0, ")");
  }

  // A reference to const in thread space, from its & on, becomes a copy; but
  // not that which a class is copied from.
  void relax(size_t i) {
    size_t space = 0;
    bool is_const = false;
    int depth = 0;
    size_t k = i;
    for (; k > 0; --k) {
      if (is(k - 1, ">")) ++depth;
      if (is(k - 1, "<") && --depth < 0) break;
      if (depth > 0) continue;
      if (is(k - 1, "thread")) space = k;
      if (is(k - 1, "const")) is_const = true;
      if (!is_word(k - 1) && !is(k - 1, "::") && !is(k - 1, "<")) break;
    }
    if (space == 0 || !is_const || is(i + 1, "&")) return;
    const bool is_copied =
        k > 1 && is(k - 1, "(") && is_word(k - 2) && is(i - 1, at(k - 2).text);
    at(space - 1).text = is_copied ? "__generic" : "";
    if (!is_copied) at(i).text = "";
  }

  void wrap(size_t question) {
    const size_t colon = end_of(question + 1, true);
    const size_t end = end_of(colon + 1, false);
    if (end >= size()) return;
    at(question).text += " metal::msl_value(";
    at(colon).text = ") : metal::msl_value(";
    at(end).text.insert(0, ")");
  }

  size_t end_of(size_t k, bool is_middle) {
    int nested = 0;
    for (; k < size(); ++k) {
      if (is(k, "(") || is(k, "[") || is(k, "{")) {
        k = closing(k);
      } else if (at(k).text.starts_with("?")) {
        ++nested;
      } else if (is(k, ":")) {
        if (nested-- == 0) return k;
      } else if (is(k, "<") && is_word(k - 1)) {
        const size_t end = skip_arguments(k);
        if (end != 0) k = end - 1;
      } else if (is(k, ";") || is(k, ")") || is(k, "]") || is(k, "}") ||
                 (is(k, ",") && !is_middle)) {
        return k;
      }
    }
    return k;
  }

  // Behind a template's arguments, 0 if < means less.
  size_t skip_arguments(size_t k) {
    int depth = 0;
    for (; k < size(); ++k) {
      if (is(k, "<")) ++depth;
      if (is(k, ">") && --depth == 0) {
        return is(k + 1, "(") || is(k + 1, "{") || is(k + 1, "::") ? k + 1 : 0;
      }
      const bool belongs = is_word(k) || is(k, ",") || is(k, "::") ||
                           is(k, "<") || is(k, ">") || is(k, "*") ||
                           at(k).kind == TokenKind::number;
      if (!belongs) return 0;
    }
    return 0;
  }

  const std::vector<Place> places_;
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

std::string repair(std::string_view text, std::string_view message) {
  return Repairer(text).run(std::string(message));
}

}  // namespace orchard::sim
