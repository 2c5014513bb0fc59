// csrc/device/sim/compile/operands.cpp: see operands.h.
#include "device/sim/compile/operands.h"

#include <algorithm>

namespace orchard::sim {
namespace {

constexpr const char* kOpen = "::metal::msl_detail::operand(";

class Operands {
 public:
  explicit Operands(TokenList& tokens) : tokens_(tokens) {}

  void run() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!tokens_.is(i, "?")) continue;
      const size_t colon = end_of(i + 1, /*is_first=*/true);
      if (!tokens_.is(colon, ":")) continue;
      wrap(i + 1, colon);
      wrap(colon + 1, end_of(colon + 1, /*is_first=*/false));
    }
  }

 private:
  // Where an operand ends that begins at i: the first at its own colon.
  size_t end_of(size_t i, bool is_first) {
    int questions = 0;
    for (; i < tokens_.size(); ++i) {
      if (tokens_.is(i, "(") || tokens_.is(i, "[") || tokens_.is(i, "{")) {
        i = tokens_.closing(i);
      } else if (tokens_.is(i, "<")) {
        i = past_arguments(i);
      } else if (tokens_.is(i, "?")) {
        ++questions;
      } else if (tokens_.is(i, ":") && questions-- == 0) {
        return i;
      } else if (tokens_.is(i, ")") || tokens_.is(i, "]") ||
                 tokens_.is(i, "}") || tokens_.is(i, ";") ||
                 (!is_first && tokens_.is(i, ","))) {
        return i;
      }
    }
    return i;
  }

  // Whether a > at i is none of an arrow's.
  bool is_angle(size_t i) {
    return tokens_.is(i, ">") && !(i > 0 && tokens_.is(i - 1, "-"));
  }

  // The last of a template's arguments in angles at i; i for a comparison.
  size_t past_arguments(size_t i) {
    if (i == 0 || !tokens_.is_word(i - 1)) return i;
    int depth = 0;
    for (size_t k = i; k < tokens_.size(); ++k) {
      if (tokens_.is(k, "(")) k = tokens_.closing(k);
      if (tokens_.is(k, "<")) ++depth;
      if (is_angle(k) && --depth == 0) {
        const bool is_used = tokens_.is(k + 1, "(") || tokens_.is(k + 1, "{") ||
                             tokens_.is(k + 1, "::");
        return is_used ? k : i;
      }
      if (tokens_.is(k, ";") || tokens_.is(k, "{") || tokens_.is(k, ")") ||
          tokens_.is(k, "?")) {
        break;
      }
    }
    return i;
  }

  void wrap(size_t begin, size_t end) {
    // Behind > a comparison goes on, or the arguments of a template end.
    for (size_t k = begin; k < end; ++k) {
      if (tokens_.is(k, "(") || tokens_.is(k, "[") || tokens_.is(k, "{")) {
        k = tokens_.closing(k);
      } else if (tokens_.is(k, "<")) {
        k = past_arguments(k);
      } else if (is_angle(k)) {
        end = k;
      }
    }
    // Literals lie nowhere, and a zero may stand for a pointer.
    if (begin == end || (begin + 1 == end && !tokens_.is_word(begin))) return;
    if (tokens_.is(begin, "true") || tokens_.is(begin, "false") ||
        tokens_.is(begin, "nullptr") || tokens_.is(begin, "{")) {
      return;
    }
    tokens_.at(begin).before += kOpen;
    std::string& behind = tokens_.at(end).before;
    behind.insert(0, ")");
  }

  TokenList& tokens_;
};

}  // namespace

void wrap_operands(TokenList& tokens) { Operands(tokens).run(); }

}  // namespace orchard::sim
