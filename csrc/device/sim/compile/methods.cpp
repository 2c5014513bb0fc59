// csrc/device/sim/compile/methods.cpp: see methods.h.
#include "device/sim/compile/methods.h"

#include <set>
#include <vector>

namespace orchard::sim {
namespace {

class Methods {
 public:
  explicit Methods(TokenList& tokens) : tokens_(tokens) {}

  void run() {
    for (size_t i = 0; i < tokens_.size();) {
      if (tokens_.is(i, "{")) scopes_.push_back({i, {}});
      if (tokens_.is(i, "}") && scopes_.size() > 1) scopes_.pop_back();
      i = is_space(i) ? qualified(i) : i + 1;
    }
  }

 private:
  bool is_space(size_t i) {
    return tokens_.is(i, "thread") || tokens_.is(i, "device") ||
           tokens_.is(i, "threadgroup") || tokens_.is(i, "constant");
  }
  bool is_trailer(size_t i) {
    return tokens_.is(i, "const") || tokens_.is(i, "volatile") ||
           tokens_.is(i, "noexcept");
  }

  // A space stands at i; returns where to go on.
  size_t qualified(size_t i) {
    size_t list = i;  // the token before the qualifiers
    while (list > 0 && is_trailer(list - 1)) --list;
    if (list == 0 || !tokens_.is(list - 1, ")")) return i + 1;
    size_t end = i + 1;
    while (is_trailer(end)) ++end;
    if (!tokens_.is(end, "{") && !tokens_.is(end, ";") &&
        !tokens_.is(end, ":") && !tokens_.is(end, "=") &&
        !tokens_.is(end, "-")) {  // of an arrow
      return i + 1;
    }
    const size_t begin = declaration(tokens_.opening(list - 1));
    tokens_.erase(i, i + 1);
    --end;
    const bool is_new =
        scopes_.back().seen.insert(tokens_.join(begin, end)).second;
    if (is_new && !stands_before(begin, end)) return i;
    tokens_.erase(begin, past_body(end));
    return begin;
  }

  // Whether a method without a space, which means `thread`, is the same.
  bool stands_before(size_t begin, size_t end) {
    const size_t length = end - begin;
    for (size_t k = scopes_.back().begin; k + length < begin; ++k) {
      size_t same = 0;
      while (same < length &&
             tokens_.at(k + same).text == tokens_.at(begin + same).text) {
        ++same;
      }
      if (same < length) continue;
      if (tokens_.is(k + same, "{") || tokens_.is(k + same, ":") ||
          tokens_.is(k + same, ";")) {
        return true;
      }
    }
    return false;
  }

  // Where the declaration begins whose parameters open at i.
  size_t declaration(size_t i) {
    while (i > 0) {
      const size_t before = i - 1;
      if (tokens_.is(before, ";") || tokens_.is(before, "{") ||
          tokens_.is(before, "}") || tokens_.is(before, ":")) {
        break;
      }
      const bool is_list = tokens_.is(before, ")") || tokens_.is(before, "]");
      i = is_list ? tokens_.opening(before) : before;
    }
    return i;
  }

  // Behind the body, or the semicolon, of a method whose name and parameters
  // end at i.
  size_t past_body(size_t i) {
    while (i < tokens_.size() && !tokens_.is(i, ";")) {
      if (tokens_.is(i, "{")) {
        // a{x} of a list of initializers stands behind a name
        const size_t close = tokens_.closing(i);
        if (!tokens_.is_word(i - 1) || is_trailer(i - 1)) return close + 1;
        i = close;
      } else if (tokens_.is(i, "(")) {
        i = tokens_.closing(i);
      }
      ++i;
    }
    return i + 1;
  }

  struct Scope {
    size_t begin;
    std::set<std::string> seen;  // methods that had a space
  };

  TokenList& tokens_;
  std::vector<Scope> scopes_{1};
};

}  // namespace

void join_methods(TokenList& tokens) { Methods(tokens).run(); }

}  // namespace orchard::sim
