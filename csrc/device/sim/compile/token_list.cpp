// csrc/device/sim/compile/token_list.cpp: see token_list.h.
#include "device/sim/compile/token_list.h"

#include <cstdlib>

#include "device/device.h"

namespace orchard::sim {

TokenList::TokenList(std::string_view text) : tokens_(tokenize(text)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].kind != TokenKind::space) code_.push_back(i);
  }
}

bool TokenList::is_attribute(size_t i) {
  return is(i, "[") && is(i + 1, "[") && code_[i] + 1 == code_[i + 1];
}

size_t TokenList::closing(size_t i) {
  int depth = 0;
  for (; i < size(); ++i) {
    const std::string& t = at(i).text;
    if (t == "(" || t == "[" || t == "{") ++depth;
    if ((t == ")" || t == "]" || t == "}") && --depth == 0) return i;
  }
  throw Error(ErrorKind::compile, "simulator: unbalanced bracket in kernel");
}

size_t TokenList::opening(size_t i) {
  int depth = 0;
  for (size_t k = i + 1; k-- > 0;) {
    const std::string& t = at(k).text;
    if (t == ")" || t == "]" || t == "}") ++depth;
    if ((t == "(" || t == "[" || t == "{") && --depth == 0) return k;
  }
  throw Error(ErrorKind::compile, "simulator: unbalanced bracket in kernel");
}

size_t TokenList::skip_angles(size_t i) {
  int depth = 0;
  for (; i < size(); ++i) {
    if (is(i, "(")) i = closing(i);
    if (is(i, "<")) ++depth;
    if (is(i, ">") && --depth == 0) return i + 1;
  }
  return i;
}

std::vector<Attribute> TokenList::read_attributes(size_t i) {
  const size_t last = closing(i);
  std::vector<Attribute> found;
  for (size_t k = i + 2; k + 1 < last;) {
    Attribute a{at(k).text, ""};
    if (is(k + 1, "::")) {
      a.name += "::" + at(k + 2).text;
      k += 2;
    }
    if (is(k + 1, "(")) {
      const size_t close = closing(k + 1);
      a.argument = join(k + 2, close);
      k = close;
    }
    found.push_back(std::move(a));
    while (k + 1 < last && !is(k + 1, ",")) ++k;
    k += 2;  // past the comma
  }
  return found;
}

std::vector<Attribute> TokenList::take_attributes(size_t i) {
  std::vector<Attribute> found = read_attributes(i);
  erase(i, closing(i) + 1);
  return found;
}

std::string TokenList::space_before(size_t i) const {
  std::string text;
  const size_t begin = i == 0 ? 0 : code_[i - 1] + 1;
  const size_t end = i < code_.size() ? code_[i] : tokens_.size();
  for (size_t k = begin; k < end; ++k) text += tokens_[k].text;
  return text;
}

std::string TokenList::join(size_t begin, size_t end) {
  std::string text;
  for (size_t k = begin; k < end; ++k) {
    if (!text.empty() && code_[k] != code_[k - 1] + 1) text += ' ';
    text += at(k).text;
  }
  return text;
}

void TokenList::replace(size_t begin, size_t end, const std::string& text) {
  if (begin == end) return;
  for (size_t k = begin; k < end; ++k) {
    at(k).text.clear();
    at(k).before.clear();
  }
  at(begin).text = text;
  code_.erase(code_.begin() + static_cast<ptrdiff_t>(begin),
              code_.begin() + static_cast<ptrdiff_t>(end));
}

std::string TokenList::place(size_t i) const {
  std::string before;
  for (size_t k = 0; k < code_[i]; ++k) before += tokens_[k].text;
  // The last line marker, # 12 "file" …, names the line after it.
  const size_t marker = before.rfind("\n# ");
  if (marker == before.npos) return "kernel";
  const size_t end = before.find('\n', marker + 1);
  const size_t quote = before.find('"', marker) + 1;
  auto line = std::strtoul(before.c_str() + marker + 3, nullptr, 10);
  for (size_t k = end + 1; end != before.npos && k < before.size(); ++k) {
    line += before[k] == '\n';
  }
  return before.substr(quote, before.find('"', quote) - quote) + ':' +
         std::to_string(line);
}

std::string TokenList::text() const {
  std::string out;
  for (const Token& token : tokens_) {
    out += token.before;
    out += token.text;
  }
  return out;
}

}  // namespace orchard::sim
