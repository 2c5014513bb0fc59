// csrc/device/sim/check/repair.cpp: see repair() in opencl.h.
#include <cstdlib>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "device/sim/check/opencl.h"
#include "device/sim/compile/token_list.h"

namespace orchard::sim {
namespace {

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

// Calls that fail for the address space of an argument.
Places unmatched_calls(const std::string& message) {
  static const auto* const pattern = new std::regex(
      R"(:(\d+):(\d+): error: no matching (member )?function for call to )");
  Places places;
  for (std::sregex_iterator m(message.begin(), message.end(), *pattern), end;
       m != end; ++m) {
    const auto from = static_cast<size_t>(m->position());
    const size_t next =
        message.find(": error: ", from + static_cast<size_t>(m->length()));
    const std::string notes = message.substr(from, next - from);
    const bool is_space =
        notes.find("could not match '__private ") != notes.npos ||
        notes.find("could not match 'const __private ") != notes.npos ||
        notes.find("in address space '__private'") != notes.npos ||
        notes.find("changes address space") != notes.npos;
    if (is_space) {
      places.emplace(std::stoul((*m)[1]), std::stoul((*m)[2]));
    }
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
                  "binding reference of type '(const )?__private [^\n]*' to "
                  "value of type '(const )?__generic [^\n]*' changes address "
                  "space");
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
    const Places casts = places_of(
        message,
        "reinterpret_cast from [^\n]* to '(const )?__private [^\n]* is not "
        "allowed");
    const Places calls = unmatched_calls(message);
    const Places sums = places_of(
        message,
        "invalid operands to binary expression \\('[^\\n]*\\*(__private)?' and "
        "'[^\\n]*(::|>)[^\\n]*'\\)");
    const Places pseudo = places_of(
        message,
        "invalid operands to binary expression \\('<pseudo-object type>' and ");
    const Places lists = places_of(
        message, "no matching constructor for initialization of '[^\n]*vec<");
    for (size_t i = 0; i < size(); ++i) {
      if (lists.count(places_[i]) != 0) take_list(i);
      if (is(i, "?") && ununified.count(places_[i]) != 0) wrap(i);
      if (members.count(places_[i]) != 0) take_member(i);
      if (has_temporary && is(i, "&")) relax(i);
      if (casts.count(places_[i]) != 0) take_cast(i);
      if (calls.count(places_[i]) != 0) take_call(i);
      if (sums.count(places_[i]) != 0) take_sum(i);
      if (pseudo.count(places_[i]) != 0) take_component(i);
    }
    return text();
  }

 private:
  // Not insert, of which gcc 12 warns for no reason.
  void put_before(size_t i, std::string text) {
    text += at(i).text;
    at(i).text = std::move(text);
  }

  void take_member(size_t i) {
    const size_t end = end_of(i, false);
    if (end >= size()) return;
    put_before(i, "metal::msl_in_thread(");
    put_before(end, ")");
  }

  // uint4 name = {x, y, z}: the rest is zero.
  void take_list(size_t i) {
    const size_t open = is(i + 1, "=") ? i + 2 : i + 1;
    if (!is(open, "{")) return;
    const size_t close = closing(open);
    if (!is(close - 1, "{")) put_before(close, ", 0");
  }

  // What a pointer is made from.
  void take_cast(size_t i) {
    if (!is(i, "reinterpret_cast") || !is(i + 1, "<")) return;
    const size_t open = skip_angles(i + 1);
    if (is(open, "(") && is_place(open + 1, closing(open))) {
      give(open + 1, closing(open));
    }
  }

  // Of a function whose parameter is a reference in thread space, and whose
  // argument a member.
  void take_call(size_t i) {
    while (i < size() && !is(i, "(")) {
      i = is(i, "<") ? skip_angles(i) : i + 1;
      if (is(i, ";")) return;
    }
    if (i >= size()) return;
    const size_t close = closing(i);
    for (size_t k = i + 1; k < close;) {
      size_t end = k;
      while (end < close && !is(end, ",")) {
        const bool opens = is(end, "(") || is(end, "[") || is(end, "{");
        end = opens ? closing(end) + 1 : end + 1;
      }
      if (is_place(k, end)) give(k, end);
      k = end + 1;
    }
  }

  // Whether it names an object: a variable, a member or an element.
  bool is_place(size_t k, size_t end) {
    if (!is_word(k) || is(k, "metal")) return false;
    for (; k < end; ++k) {
      if (is(k, "[")) {
        k = closing(k);
      } else if (!is_word(k) && !is(k, ".") && !is(k, "-") && !is(k, ">")) {
        return false;
      }
    }
    return true;
  }

  void give(size_t k, size_t end) {
    put_before(k, is(end - 1, "]") ? "metal::msl_element_in_thread("
                                   : "metal::msl_in_thread(");
    put_before(end, ")");
  }

  // pointer += object of a class that becomes a number.
  void take_sum(size_t i) {
    const bool is_compound = is(i + 1, "=");
    const size_t first = is_compound ? i + 2 : i + 1;
    const bool is_sum = is(i, "+") || is(i, "-") || is(i, "+=") || is(i, "-=");
    if (is_sum && is_word(first)) put_before(first, "+");
  }

  // vector.x += number, where clang reads no property of a template's vector.
  void take_component(size_t i) {
    if (i < 3 || !is_word(i - 1) || !is(i - 2, ".") || !is_word(i - 3)) return;
    const size_t sign = is(i + 1, "=") ? i + 1 : i;
    std::string op = at(i).text;
    if (sign == i) {
      if (op.size() < 2 || op.back() != '=') return;
      op.pop_back();
    }
    size_t end = sign + 1;
    while (end < size() && !is(end, ";") && !is(end, ")") && !is(end, ",")) {
      const bool opens = is(end, "(") || is(end, "[");
      end = opens ? closing(end) + 1 : end + 1;
    }
    size_t begin = i - 3;
    while (begin > 1 && is(begin - 1, ".") && is_word(begin - 2)) begin -= 2;
    std::string place;
    for (size_t k = begin; k < i; ++k) place += at(k).text;
    at(i).text = "";
    at(sign).text = "= " + place + " " + op + " (";
    put_before(end, ")");
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
    put_before(end, ")");
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

std::string repair(std::string_view text, std::string_view message) {
  return Repairer(text).run(std::string(message));
}

}  // namespace orchard::sim
