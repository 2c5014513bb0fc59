// csrc/device/sim/check/unit.cpp: see unit.h.
#include "device/sim/check/unit.h"

#include <algorithm>
#include <array>

#include "device/device.h"

namespace orchard::sim::check {
namespace {

constexpr std::array<std::string_view, 3> kRecords = {"struct", "class",
                                                      "union"};
// Words before a parenthesis that holds no parameters.
constexpr std::array<std::string_view, 5> kCalls = {
    "alignas", "decltype", "__attribute__", "noexcept", "typeof"};
// Declarations that are no functions.
constexpr std::array<std::string_view, 9> kOthers = {
    "using",  "typedef", "namespace", "static_assert", "enum",
    "struct", "class",   "union",     "friend"};
constexpr std::array<std::string_view, 4> kConditions = {"if", "for", "while",
                                                         "switch"};

}  // namespace

Unit::Unit(std::string_view text, int version)
    : TokenList(text), version_(version), places_(size() + 1) {
  outline();
  find_internals();
}

const Function* Unit::function(size_t i) const {
  const size_t f = places_[i].function;
  return f == kNowhere ? nullptr : &functions_[f];
}

std::vector<std::pair<size_t, size_t>> Unit::split(size_t i) {
  std::vector<std::pair<size_t, size_t>> found;
  const size_t last = closing(i);
  int angles = 0;
  size_t begin = i + 1;
  for (size_t k = i + 1; k <= last; ++k) {
    if (is(k, "<")) ++angles;
    if (is(k, ">")) --angles;
    if (k == last || (is(k, ",") && angles <= 0)) {
      if (k > begin) found.emplace_back(begin, k);
      begin = k + 1;
    } else if (is(k, "(") || is(k, "{") || is(k, "[")) {
      k = closing(k);
    }
  }
  return found;
}

size_t Unit::skip_call(size_t i) {
  if (i >= size() || !contains(kCalls, at(i).text) || !is(i + 1, "(")) return i;
  return closing(i + 1) + 1;
}

std::vector<Attribute> Unit::attributes(size_t begin, size_t end) {
  std::vector<Attribute> found;
  for (size_t k = begin; k < end; ++k) {
    if (!is_attribute(k)) continue;
    for (Attribute& a : read_attributes(k)) found.push_back(std::move(a));
    k = closing(k);
  }
  return found;
}

bool Unit::declares(std::string_view type) {
  for (size_t i = 0; i + 1 < size(); ++i) {
    const bool is_type = contains(kRecords, at(i).text) || is(i, "enum");
    if (is_type && is(i + 1, type)) return true;
    // typedef struct { … } type;
    if (is(i, "}") && is(i + 1, type) && is(i + 2, ";")) return true;
  }
  return false;
}

void Unit::rewrite(size_t begin, size_t end, std::string text) {
  for (size_t k = begin; k < end; ++k) edits_[k].clear();
  if (begin < end) edits_[begin] = std::move(text);
}

std::string Unit::rewritten() {
  for (auto& [i, text] : edits_) at(i).text = std::move(text);
  return text();
}

void Unit::refuse(size_t i, const std::string& what) const {
  throw Error(ErrorKind::compile, "simulator: Metal does not accept this\n" +
                                      place(i) + ": error: " + what);
}

void Unit::find_internals() {
  bool is_on = false;
  for (size_t i = 0; i < size(); ++i) {
    const std::string before = space_before(i);
    if (const size_t pragma = before.rfind("#pragma METAL internals");
        pragma != before.npos) {
      is_on = before.find("enable", pragma) < before.find('\n', pragma);
    }
    places_[i].has_internals = is_on;
  }
}

// A declaration that starts here declares a function if a parenthesis follows
// its name.
void Unit::find_function(size_t begin, Frame& frame) {
  frame.pending = kNowhere;
  Function f;
  f.begin = begin;
  f.within = frame.scope;
  size_t name = kNowhere;
  for (size_t k = begin; k < size(); ++k) {
    if (is_attribute(k)) {
      for (const Attribute& a : read_attributes(k)) {
        f.is_kernel = f.is_kernel || a.name == "kernel";
      }
      k = closing(k);
    } else if (const size_t end = skip_call(k); end != k) {
      k = end - 1;
    } else if (is(k, "template")) {
      f.is_instance = !is(k + 1, "<");
      if (f.is_instance) continue;
      f.is_template = f.is_template || !is(k + 2, ">");
      k = skip_angles(k + 1) - 1;
    } else if (is(k, "operator")) {
      name = k++;
      if (is(k, "(")) k += 2;
      while (k + 1 < size() && !is(k, "(")) ++k;
      --k;
    } else if (is_word(k)) {
      if (contains(kOthers, at(k).text)) return;
      f.is_kernel = f.is_kernel || is(k, "kernel");
      if (!is(k, "extern")) name = k;
    } else if (is(k, "<") && name != kNowhere && !is(name, "operator")) {
      k = skip_angles(k) - 1;
    } else if (is(k, "(")) {
      if (name == kNowhere || is(k + 1, "*") || is(k + 1, "&")) return;
      f.name = name;
      f.open = k;
      f.close = closing(k);
      f.parameters = split(k);
      frame.pending = functions_.size();
      functions_.push_back(std::move(f));
      return;
    } else if (is(k, "[")) {
      k = closing(k);
    } else if (is(k, "{") || is(k, "}") || is(k, ";") || is(k, "=") ||
               is(k, ":") || is(k, ")")) {
      return;
    }
  }
}

// Whether "-> type" ends at i.
bool Unit::follows_arrow(size_t i, size_t begin) {
  for (size_t k = i; k > begin + 1; --k) {
    if (is_pair(k - 2, "-", ">")) return true;
    if (!is_word(k - 1) && !is(k - 1, "<") && !is(k - 1, ">") &&
        !is(k - 1, "::") && !is(k - 1, "*") && !is(k - 1, "&")) {
      return false;
    }
  }
  return false;
}

Scope Unit::scope_of_brace(size_t i, Frame& frame) {
  const bool is_first = i == frame.begin;
  const bool follows_list = !is_first && is(i - 1, ")");
  bool has_record = false;
  for (size_t k = frame.begin; k < i; ++k) {
    if (is(k, "template") && is(k + 1, "<")) k = skip_angles(k + 1) - 1;
    if (k >= i) break;
    if (is(k, "namespace")) return Scope::space;
    if (is(k, "enum")) return Scope::list;
    has_record = has_record || contains(kRecords, at(k).text);
  }
  if (frame.scope == Scope::space || frame.scope == Scope::record) {
    if (is(frame.begin, "extern") && i == frame.begin + 2) return Scope::space;
    if (frame.pending != kNowhere) {
      Function& f = functions_[frame.pending];
      bool has_members = false;  // of a constructor's list
      for (size_t k = f.close; k < i; ++k) has_members |= is(k, ":");
      if (!has_members || follows_list || is(i - 1, "}")) {
        f.body = i;
        return Scope::body;
      }
      return Scope::value;
    }
    return has_record && !is(i - 1, "=") ? Scope::record : Scope::value;
  }
  if (has_record && !is_first && !is(i - 1, "=") && !follows_list &&
      frame.scope == Scope::body && frame.parentheses == 0) {
    return Scope::record;
  }
  if (follows_list || follows_arrow(i, frame.begin)) return Scope::body;
  if (frame.scope == Scope::body && frame.parentheses == 0 &&
      (is_first || is(i - 1, ";") || is(i - 1, "{") || is(i - 1, "}"))) {
    return Scope::body;
  }
  return is(i - 1, "mutable") || is(i - 1, "thread") ? Scope::body
                                                     : Scope::value;
}

// Reads token i; returns whether a declaration or statement starts after it.
bool Unit::step(size_t i, std::vector<Frame>& frames) {
  Frame& frame = frames.back();
  const bool is_plain = frame.parentheses == 0;
  if (is(i, "(") || is(i, "[")) {
    ++frame.parentheses;
    const bool is_condition =
        i > 0 && frame.scope == Scope::body &&
        (contains(kConditions, at(i - 1).text) ||
         (is(i - 1, "constexpr") && i > 1 && is(i - 2, "if")));
    if (is_condition) frame.statements.push_back(closing(i));
    return is_condition && is(i - 1, "for");
  }
  if (is(i, ")") || is(i, "]")) {
    --frame.parentheses;
    if (frame.statements.empty() || frame.statements.back() != i) return false;
    frame.statements.pop_back();
    return true;
  }
  if (is(i, "{")) {
    Frame inner;
    inner.scope = scope_of_brace(i, frame);
    inner.begin = i + 1;
    inner.brace = i;
    inner.function = frame.function;
    if (inner.scope == Scope::body && frame.pending != kNowhere) {
      inner.function = std::exchange(frame.pending, kNowhere);
    }
    frames.push_back(std::move(inner));
    return frames.back().scope != Scope::value &&
           frames.back().scope != Scope::list;
  }
  if (is(i, "}")) {
    const Scope ended = frame.scope;
    if (frames.size() > 1) frames.pop_back();
    return (ended == Scope::body || ended == Scope::space) &&
           frames.back().parentheses == 0;
  }
  if (is(i, ";")) return is_plain;
  if (is(i, ":") && is_plain) {
    const bool is_access =
        frame.scope == Scope::record && i > 0 &&
        (is(i - 1, "public") || is(i - 1, "private") || is(i - 1, "protected"));
    const bool is_case =
        frame.scope == Scope::body &&
        (is(frame.begin, "case") || is(frame.begin, "default"));
    const bool is_label =
        frame.scope == Scope::body && i > 0 && i - 1 == frame.begin;
    return is_access || is_case || is_label;
  }
  if (frame.scope == Scope::body && is_plain &&
      (is(i, "else") || is(i, "do"))) {
    return true;
  }
  return false;
}

void Unit::outline() {
  std::vector<Frame> frames(1);
  bool is_start = true;
  bool has_begun = false;  // by an attribute
  for (size_t i = 0; i < size(); ++i) {
    const bool is_mark = is_attribute(i);
    const size_t last = is_mark ? closing(i) : i;
    if (is_start && !has_begun) frames.back().begin = i;
    const bool starts_here = is_start && !is_mark;
    if (starts_here) {
      Frame& frame = frames.back();
      if (frame.scope == Scope::space || frame.scope == Scope::record) {
        find_function(frame.begin, frame);
      }
    }
    const Frame& frame = frames.back();
    for (size_t k = i; k <= last; ++k) {
      places_[k] = {frame.scope, starts_here,       is_mark,
                    false,       frame.parentheses, frame.begin,
                    frame.brace, frame.function};
    }
    has_begun = is_mark && is_start;
    if (!is_mark) is_start = step(i, frames);
    i = last;
  }
}

}  // namespace orchard::sim::check
