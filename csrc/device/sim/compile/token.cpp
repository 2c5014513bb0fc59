// csrc/device/sim/compile/token.cpp: splits a preprocessed kernel; see token.h.
#include "device/sim/compile/token.h"

#include <cctype>

namespace orchard::sim {
namespace {

bool is_word_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

size_t end_of_number(std::string_view text, size_t at) {
  const bool is_hex = text.substr(at).starts_with("0x");
  while (at < text.size()) {
    const char c = text[at];
    const bool is_exponent =
        is_hex ? (c == 'p' || c == 'P') : (c == 'e' || c == 'E');
    if (is_exponent && at + 1 < text.size() &&
        (text[at + 1] == '-' || text[at + 1] == '+')) {
      at += 2;
    } else if (is_word_char(c) || c == '.' ||
               (c == '\'' && at + 1 < text.size() &&
                is_word_char(text[at + 1]))) {
      ++at;
    } else {
      break;
    }
  }
  return at;
}

size_t end_of_literal(std::string_view text, size_t at) {
  const char quote = text[at++];
  while (at < text.size() && text[at] != quote) at += text[at] == '\\' ? 2 : 1;
  return std::min(at + 1, text.size());
}

// A preprocessor line (marker or pragma) counts as space.
size_t end_of_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    if (text[at] == '#') {
      at = std::min(text.find('\n', at), text.size());
    } else if (std::isspace(static_cast<unsigned char>(text[at])) != 0) {
      ++at;
    } else {
      break;
    }
  }
  return at;
}

}  // namespace

std::vector<Token> tokenize(std::string_view text) {
  std::vector<Token> tokens;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    TokenKind kind = TokenKind::mark;
    size_t end = at + 1;
    const bool is_digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (c == '#' || std::isspace(static_cast<unsigned char>(c)) != 0) {
      kind = TokenKind::space;
      end = end_of_space(text, at);
    } else if (is_digit ||
               (c == '.' && at + 1 < text.size() &&
                std::isdigit(static_cast<unsigned char>(text[at + 1])) != 0)) {
      kind = TokenKind::number;
      end = end_of_number(text, at);
    } else if (is_word_char(c)) {
      kind = TokenKind::word;
      while (end < text.size() && is_word_char(text[end])) ++end;
    } else if (c == '"' || c == '\'') {
      kind = TokenKind::text;
      end = end_of_literal(text, at);
    } else if (c == ':' && end < text.size() && text[end] == ':') {
      ++end;
    }
    tokens.push_back({kind, std::string(text.substr(at, end - at))});
    at = end;
  }
  return tokens;
}

}  // namespace orchard::sim
