// csrc/device/sim/compile/token.h: C++ tokens of a preprocessed kernel.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orchard::sim {

enum class TokenKind { space, word, number, text, mark };

struct Token {
  TokenKind kind;
  std::string text;
  std::string before{};  // written in front of it; no token

  bool is(std::string_view other) const { return text == other; }
};

// Comments are gone already; spaces, line markers included, are kept.
std::vector<Token> tokenize(std::string_view text);

}  // namespace orchard::sim
