// csrc/device/sim/check/language.cpp: C++ that Metal lacks; see check.h.
#include <map>

#include "device/sim/check/check.h"
#include "device/sim/check/number.h"

namespace orchard::sim::check {
namespace {

// Of Metal's library: templates that a variable's type may start with.
constexpr std::string_view kTemplates[] = {"array", "vec", "matrix", "atomic",
                                           "simdgroup_matrix"};
constexpr std::string_view kTypeWords[] = {"struct", "class", "union",
                                           "typename", "enum"};
constexpr std::string_view kNoTypes[] = {"return", "else",   "do",
                                         "case",   "delete", "throw"};

class Language {
 public:
  explicit Language(Unit& unit) : unit_(unit) {}

  void run() {
    check_functions();
    find_templates();
    for (size_t i = 0; i < unit_.size(); ++i) {
      if (unit_.in_attribute(i)) continue;
      if (unit_.is(i, "{")) check_base(i);
      if (unit_.is(i, "[")) check_bracket(i);
      if (unit_.is(i, "template") && unit_.is(i + 1, "<"))
        check_template(i + 1);
      if (unit_.is_word(i)) {
        check_label(i);
        check_deduction(i);
      }
    }
  }

 private:
  void check_functions() {
    for (const Function& f : unit_.functions()) {
      if (unit_.is(f.name, "main") && unit_.brace(f.name) == kNowhere) {
        unit_.refuse(f.name,
                     "a function cannot be called 'main': choose another name");
      }
      const bool is_guide = f.name == f.begin && f.within == Scope::space &&
                            unit_.is_pair(f.close + 1, "-", ">");
      if (is_guide && unit_.version() < 400) {
        unit_.refuse(f.name,
                     "deduction guides exist from Metal 4.0 on: write "
                     "the template's arguments");
      }
    }
  }

  // struct Name : Base {
  void check_base(size_t i) {
    if (i + 1 >= unit_.size() || unit_.scope(i + 1) != Scope::record ||
        unit_.has_internals(i)) {
      return;
    }
    for (size_t k = unit_.begin(i); k < i; ++k) {
      if (unit_.is_attribute(k) || unit_.is(k, "(")) {
        k = unit_.closing(k);
      } else if (unit_.is(k, "<")) {
        k = unit_.skip_angles(k) - 1;
      } else if (unit_.is(k, ":")) {
        unit_.refuse(k,
                     "derived classes are not supported in Metal: make the "
                     "base a member, or repeat what it declares");
      }
    }
  }

  void check_bracket(size_t i) {
    if (i == 0 || unit_.is_attribute(i)) return;
    const size_t close = unit_.closing(i);
    const bool follows_word =
        unit_.is_word(i - 1) && !unit_.is(i - 1, "return");
    const bool is_lambda =
        !follows_word && !unit_.is(i - 1, "]") && !unit_.is(i - 1, ")") &&
        (unit_.is(close + 1, "(") || unit_.is(close + 1, "{"));
    if (is_lambda && unit_.version() < 320) {
      unit_.refuse(i,
                   "lambda expressions are not supported in Metal before "
                   "3.2: write a function or a functor");
    }
    // A declaration's bound: type name [0]
    const bool is_declared =
        i > 1 && follows_word && !unit_.is(i - 1, "operator") &&
        (unit_.is_word(i - 2) ? !contains(kNoTypes, unit_.at(i - 2).text)
                              : unit_.is(i - 2, ">") && !unit_.is(i - 3, "-"));
    if (is_declared && close == i + 1 && unit_.scope(i) == Scope::record &&
        !unit_.in_parentheses(i)) {
      unit_.refuse(i,
                   "flexible array members are no part of C++: give the "
                   "array its length, or pass a pointer");
    }
    if (is_declared && number_of(unit_.join(i + 1, close)) == 0) {
      unit_.refuse(i,
                   "zero-length arrays are not permitted: leave the array "
                   "out, or give it one element");
    }
  }

  void check_template(size_t i) {
    const size_t end = unit_.skip_angles(i);
    for (size_t k = i + 1; k < end; ++k) {
      const bool is_first = unit_.is(k - 1, "<") || unit_.is(k - 1, ",");
      if (is_first && unit_.is(k, "auto") && unit_.version() < 400) {
        unit_.refuse(k,
                     "'auto' template parameters exist from Metal 4.0 on: "
                     "name the type");
      }
      // clang takes no pointer to a function here for OpenCL, but a reference.
      if (unit_.is_pair(k, "(", "*") && unit_.is(unit_.closing(k) + 1, "(")) {
        unit_.rewrite(k + 1, "&");
      }
    }
  }

  void check_label(size_t i) {
    if (!unit_.starts(i) || unit_.scope(i) != Scope::body) return;
    if (unit_.is(i, "default") || !unit_.is(i + 1, ":")) return;
    unit_.refuse(i,
                 "labeled statements are not supported in Metal: write a "
                 "loop or a condition");
  }

  // Class templates of the text, and the braces of their own bodies.
  void find_templates() {
    for (size_t i = 0; i + 2 < unit_.size(); ++i) {
      if (!unit_.is(i, "template") || !unit_.is(i + 1, "<")) continue;
      size_t k = unit_.skip_angles(i + 1);
      const bool is_record = unit_.is(k, "struct") || unit_.is(k, "class");
      if (!is_record) continue;
      ++k;
      while (k < unit_.size()) {
        if (unit_.is_attribute(k)) {
          k = unit_.closing(k) + 1;
        } else if (const size_t end = unit_.skip_call(k); end != k) {
          k = end;
        } else {
          break;
        }
      }
      const std::string& name = unit_.at(k).text;
      while (k < unit_.size() && !unit_.is(k, "{") && !unit_.is(k, ";")) ++k;
      if (!unit_.is(k, "{")) continue;
      templates_[name].emplace_back(k, unit_.closing(k));
    }
  }

  // A template's name without arguments where an object is made.
  void check_deduction(size_t i) {
    if (unit_.version() >= 400 || unit_.scope(i) != Scope::body) return;
    const std::string& name = unit_.at(i).text;
    const auto found = templates_.find(name);
    const bool is_own = found != templates_.end();
    if (!is_own && !contains(kTemplates, name)) return;
    const bool is_qualified =
        i > 0 && (unit_.is(i - 1, ".") || unit_.is(i - 1, ">") ||
                  contains(kTypeWords, unit_.at(i - 1).text));
    if (is_qualified) return;
    for (const auto& [open, close] : is_own ? found->second : Ranges{}) {
      if (open < i && i < close) return;  // the name of the class itself
    }
    const bool declares = unit_.starts(i) && unit_.is_word(i + 1);
    const bool makes =
        is_own &&
        !(i > 0 && unit_.is_word(i - 1) && !unit_.is(i - 1, "return")) &&
        (unit_.is(i + 1, "(") || unit_.is(i + 1, "{"));
    if (!declares && !makes) return;
    unit_.refuse(i, "use of class template '" + name +
                        "' requires template arguments before Metal 4.0: "
                        "write them");
  }

  using Ranges = std::vector<std::pair<size_t, size_t>>;

  Unit& unit_;
  std::map<std::string, Ranges> templates_;
};

}  // namespace

void check_language(Unit& unit) { Language(unit).run(); }

}  // namespace orchard::sim::check
