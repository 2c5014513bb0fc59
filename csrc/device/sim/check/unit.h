// csrc/device/sim/check/unit.h: a preprocessed text with its outline, for the
// rules of check.h: what each brace holds, where declarations and statements
// start, which functions there are.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/sim/compile/token_list.h"

namespace orchard::sim::check {

constexpr size_t kNowhere = static_cast<size_t>(-1);

template <class Words>
bool contains(const Words& words, std::string_view word) {
  for (const std::string_view other : words) {
    if (other == word) return true;
  }
  return false;
}

// What the innermost brace around a token holds.
enum class Scope { space, record, list, body, value };

// Indices of tokens; of [begin, end) of each parameter.
struct Function {
  size_t begin = 0;
  size_t name = 0;
  size_t open = 0;
  size_t close = 0;
  size_t body = kNowhere;
  Scope within = Scope::space;
  bool is_kernel = false;
  bool is_template = false;
  bool is_instance = false;  // explicit, of a template
  std::vector<std::pair<size_t, size_t>> parameters;
};

class Unit : public TokenList {
 public:
  // version: 310 for Metal 3.1.
  Unit(std::string_view text, int version);

  int version() const { return version_; }
  Scope scope(size_t i) const { return places_[i].scope; }
  // Whether a declaration or statement starts at i, behind its attributes.
  bool starts(size_t i) const { return places_[i].is_start; }
  // Where the declaration or statement of i starts.
  size_t begin(size_t i) const { return places_[i].begin; }
  bool in_parentheses(size_t i) const { return places_[i].parentheses > 0; }
  bool in_attribute(size_t i) const { return places_[i].is_attribute; }
  // Whether `#pragma METAL internals : enable` holds at i.
  bool has_internals(size_t i) const { return places_[i].has_internals; }
  const std::vector<Function>& functions() const { return functions_; }
  // The function whose body holds i, or nullptr.
  const Function* function(size_t i) const;
  // The brace around i, or kNowhere.
  size_t brace(size_t i) const { return places_[i].brace; }

  // The parameters of the list that opens at i.
  std::vector<std::pair<size_t, size_t>> split(size_t i);
  // Behind alignas(…), decltype(…) or __attribute__((…)) at i, else i.
  size_t skip_call(size_t i);
  // Attributes of [begin, end).
  std::vector<Attribute> attributes(size_t begin, size_t end);
  // Whether the text has a struct, class, union or enumeration of this name.
  bool declares(std::string_view type);
  // Whether a, b stand side by side as one operator.
  bool is_pair(size_t i, std::string_view a, std::string_view b) {
    return is(i, a) && is(i + 1, b);
  }

  // Becomes the token's text once all rules have read it.
  void rewrite(size_t i, std::string text) { edits_[i] = std::move(text); }
  void rewrite(size_t begin, size_t end, std::string text);
  std::string rewritten();

  [[noreturn]] void refuse(size_t i, const std::string& what) const;

 private:
  struct Place {
    Scope scope = Scope::space;
    bool is_start = false;
    bool is_attribute = false;
    bool has_internals = false;
    int parentheses = 0;
    size_t begin = 0;
    size_t brace = kNowhere;
    size_t function = kNowhere;
  };
  struct Frame {
    Scope scope = Scope::space;
    size_t begin = 0;
    size_t brace = kNowhere;
    size_t function = kNowhere;      // that holds this brace
    size_t pending = kNowhere;       // declared, its body may follow
    std::vector<size_t> statements;  // parentheses that a statement follows
    int parentheses = 0;
  };

  void outline();
  void find_internals();
  void find_function(size_t begin, Frame& frame);
  Scope scope_of_brace(size_t i, Frame& frame);
  bool follows_arrow(size_t i, size_t begin);
  bool step(size_t i, std::vector<Frame>& frames);

  int version_;
  std::vector<Place> places_;
  std::vector<Function> functions_;
  std::map<size_t, std::string> edits_;
};

}  // namespace orchard::sim::check
