// csrc/device/sim/check/pointers.cpp: address spaces; see check.h.
#include <array>
#include <set>

#include "device/sim/check/check.h"

namespace orchard::sim::check {
namespace {

// Words after which * and & are operators.
constexpr std::array<std::string_view, 9> kOperators = {
    "return", "else",     "case",      "sizeof", "operator",
    "do",     "co_yield", "namespace", "alignof"};

// What a type is followed by, where it stands.
enum class Ends { name, parameter, argument, cast, condition };

class Pointers {
 public:
  explicit Pointers(Unit& unit) : unit_(unit) {}

  void run() {
    find_aliases();
    for (const Function& f : unit_.functions()) {
      for (const auto& range : f.parameters) read(range.first, Ends::parameter);
    }
    for (size_t i = 0; i < unit_.size(); ++i) {
      if (unit_.in_attribute(i)) continue;
      if (unit_.starts(i)) read(i, Ends::name);
      if (unit_.is(i, "<") || unit_.is(i, ",")) read(i + 1, Ends::argument);
      if (unit_.is(i, "(")) open(i);
      if (unit_.is(i, "=")) read(i + 1, Ends::argument);
      if (unit_.is_pair(i, "-", ">")) read(i + 2, Ends::argument);
    }
  }

 private:
  // A type's name that stands for a qualified one.
  void find_aliases() {
    for (size_t i = 0; i < unit_.size(); ++i) {
      const bool is_using = unit_.is(i, "using") && unit_.is(i + 2, "=");
      if (!is_using && !unit_.is(i, "typedef")) continue;
      bool has_space = false, points = false;
      size_t k = i + 1;
      for (; k < unit_.size() && !unit_.is(k, ";"); ++k) {
        has_space = has_space || is_space(unit_.at(k).text);
        points = points || unit_.is(k, "*") || unit_.is(k, "&");
      }
      if (has_space && !points) {
        qualified_.insert(unit_.at(is_using ? i + 1 : k - 1).text);
      }
    }
  }

  void open(size_t i) {
    if (i == 0) return;
    const bool is_condition = unit_.is(i - 1, "if") ||
                              unit_.is(i - 1, "while") ||
                              unit_.is(i - 1, "switch");
    read(i + 1, is_condition ? Ends::condition : Ends::cast);
    // Of a lambda, or of a pointer to a function.
    if (unit_.is(i - 1, "]") || points_to_function(i)) {
      for (const auto& range : unit_.split(i))
        read(range.first, Ends::parameter);
    }
  }

  // Whether the list at i follows "(*name)".
  bool points_to_function(size_t i) {
    if (!unit_.is(i - 1, ")")) return false;
    for (size_t k = i - 1; k > 1; --k) {
      if (unit_.is(k - 1, "(")) {
        return (unit_.is(k, "*") || unit_.is(k, "&")) && k >= 2 &&
               (unit_.is_word(k - 2) || unit_.is(k - 2, ">"));
      }
      if (!unit_.is_word(k - 1) && !unit_.is(k - 1, "*") &&
          !unit_.is(k - 1, "&") && !unit_.is(k - 1, "::")) {
        return false;
      }
    }
    return false;
  }

  bool is_mark(size_t i) { return unit_.is(i, "*") || unit_.is(i, "&"); }
  bool is_qualifier(size_t i) {
    return unit_.is(i, "const") || unit_.is(i, "volatile") ||
           (i < unit_.size() && is_space(unit_.at(i).text));
  }

  // Whether what stands behind the marks of a type is what ends it.
  bool ends(size_t i, Ends how) {
    switch (how) {
      case Ends::name:
        return unit_.is_word(i) || unit_.is(i, "[");
      case Ends::parameter:
        return unit_.is_word(i) || unit_.is(i, ",") || unit_.is(i, ")") ||
               unit_.is(i, "=") || unit_.is(i, ".") || unit_.is(i, "[") ||
               unit_.is(i, "(");
      case Ends::argument:
        return unit_.is(i, ",") || unit_.is(i, ">") || unit_.is(i, ";") ||
               unit_.is(i, "{");
      case Ends::cast:
        return unit_.is(i, ")");
      case Ends::condition:
        return unit_.is_word(i) && unit_.is(i + 1, "=") &&
               !unit_.is(i + 2, "=");
    }
    return false;
  }

  void read(size_t begin, Ends how) {
    bool has_space = false;
    size_t words = 0;
    for (size_t k = begin; k < unit_.size(); ++k) {
      if (unit_.is_attribute(k)) {
        k = unit_.closing(k);
      } else if (const size_t end = unit_.skip_call(k); end != k) {
        words += unit_.is(k, "decltype");
        k = end - 1;
      } else if (is_mark(k)) {
        if (words > 0) read_marks(begin, k, how, has_space);
        return;
      } else if (unit_.is_word(k)) {
        const std::string& word = unit_.at(k).text;
        if (contains(kOperators, word)) return;
        has_space = has_space || is_space(word) || qualified_.contains(word);
        ++words;
      } else if (unit_.is(k, "<")) {
        const size_t end = unit_.skip_angles(k);
        if (end >= unit_.size()) return;  // it was "less than"
        k = end - 1;
      } else if (unit_.is(k, "(") && words > 0 && is_mark(k + 1)) {
        return read_nested(begin, k, how, has_space, words);
      } else if (!unit_.is(k, "::")) {
        if (how == Ends::name && words > 1 && !has_space) read_others(begin, k);
        return;
      }
    }
  }

  // T (&name)[N]; what points to a function needs no space.
  void read_nested(
      size_t begin, size_t k, Ends how, bool has_space, size_t words) {
    const size_t close = unit_.closing(k);
    const bool is_type = how == Ends::parameter || words > 1 ||
                         is_plain_type(unit_.at(k - 1).text);
    if (has_space || !is_type || !unit_.is(close + 1, "[")) return;
    refuse(begin, k + 1);
  }

  void read_marks(size_t begin, size_t k, Ends how, bool has_space) {
    const bool is_specified = has_space;
    size_t end = k;
    while (is_mark(end) || is_qualifier(end)) ++end;
    // A trailing qualifier may be all that is left of an unnamed pointer.
    const bool is_type =
        ends(end, how) || (how == Ends::name && end > k + 1 &&
                           is_qualifier(end - 1) && unit_.is_word(end));
    if (!is_type) return;
    bool points = false;
    for (; k < end; ++k) {
      if (is_mark(k)) {
        // A reference to a pointer is one to a thread's variable.
        const bool is_implied = points && unit_.is(k, "&");
        if (!has_space && !is_implied) refuse(begin, k);
        points = true;
        if (unit_.is_pair(k, "&", "&")) ++k;
        has_space = false;
      } else {
        has_space = has_space || is_space(unit_.at(k).text);
      }
    }
    if (how == Ends::name && !is_specified) read_others(begin, end);
  }

  // The same type's other names: T a, *b.
  void read_others(size_t begin, size_t k) {
    for (; k < unit_.size() && !unit_.is(k, ";"); ++k) {
      const bool is_body =
          unit_.is(k, "{") && unit_.scope(k + 1) != Scope::value;
      if (is_body || unit_.is(k, ")") || unit_.is(k, "}")) return;
      if (unit_.is(k, "(") || unit_.is(k, "[") || unit_.is(k, "{")) {
        k = unit_.closing(k);
      } else if (unit_.is(k, ",") && is_mark(k + 1)) {
        refuse(begin, k + 1);
      }
    }
  }

  [[noreturn]] void refuse(size_t begin, size_t mark) {
    const bool points = unit_.is(mark, "*");
    unit_.refuse(mark, std::string(points ? "pointer" : "reference") +
                           " without an address space (" +
                           unit_.join(begin, mark + 1) +
                           "): write device, constant, threadgroup or thread "
                           "before what it points to");
  }

  Unit& unit_;
  std::set<std::string> qualified_;
};

}  // namespace

void check_pointers(Unit& unit) { Pointers(unit).run(); }

}  // namespace orchard::sim::check
