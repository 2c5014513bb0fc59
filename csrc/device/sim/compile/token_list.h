// csrc/device/sim/compile/token_list.h: the tokens of a preprocessed kernel, to
// walk and to rewrite; spaces, and with them the line numbers, stay.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "device/sim/compile/token.h"

namespace orchard::sim {

// One of [[ … ]].
struct Attribute {
  std::string name;
  std::string argument;
};

// Indices count significant tokens: all but space.
class TokenList {
 public:
  explicit TokenList(std::string_view text);

  size_t size() const { return code_.size(); }
  Token& at(size_t i) { return tokens_[code_[i]]; }
  bool is(size_t i, std::string_view text) {
    return i < size() && at(i).is(text);
  }
  bool is_word(size_t i) { return i < size() && at(i).kind == TokenKind::word; }
  // Whether [[ begins at i.
  bool is_attribute(size_t i);

  // Index of the bracket that closes the one at i.
  size_t closing(size_t i);
  // Index after the > that closes the < at i.
  size_t skip_angles(size_t i);
  // Reads [[ … ]] at i; a name in a namespace keeps it.
  std::vector<Attribute> read_attributes(size_t i);
  // The same, and removes it.
  std::vector<Attribute> take_attributes(size_t i);
  // Index of the bracket that opens what closes at i.
  size_t opening(size_t i);

  // As written, with one space for any.
  std::string join(size_t begin, size_t end);
  void erase(size_t begin, size_t end) { replace(begin, end, ""); }
  // The same, and leaves a text there that is no token.
  void replace(size_t begin, size_t end, const std::string& text);
  // What stands between the token before i and i, with preprocessor lines.
  std::string space_before(size_t i) const;
  // "file:line" of a token, by the preprocessor's markers.
  std::string place(size_t i) const;
  // Everything, as rewritten.
  std::string text() const;

 private:
  std::vector<Token> tokens_;
  std::vector<size_t> code_;
};

}  // namespace orchard::sim
