// csrc/device/sim/compile/constants.cpp: see constants.h.
#include "device/sim/compile/constants.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "device/device.h"

namespace orchard::sim {
namespace {

constexpr std::string_view kSymbol = "orchard_constant_";

// As C++ writes it.
std::string literal(const Constant& value) {
  if (const auto* flag = std::get_if<bool>(&value)) {
    return *flag ? "true" : "false";
  }
  if (const auto* number = std::get_if<int64_t>(&value)) {
    // The lowest has no literal of its own.
    return "(" + std::to_string(*number + 1) + "l-1)";
  }
  if (const auto* number = std::get_if<uint64_t>(&value)) {
    return std::to_string(*number) + "ul";
  }
  const double number = std::get<double>(value);
  if (std::isnan(number)) return "__builtin_nanf(\"\")";
  if (std::isinf(number)) {
    return number > 0 ? "__builtin_inff()" : "-__builtin_inff()";
  }
  char text[64];
  std::snprintf(text, sizeof(text), "%af", number);
  return text;
}

class FunctionConstants {
 public:
  FunctionConstants(TokenList& tokens, const Constants& values)
      : tokens_(tokens), values_(values) {}

  void run() {
    size_t begin = 0;  // of a declaration
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_.is(i, ";") || tokens_.is(i, "{") || tokens_.is(i, "}")) {
        begin = i + 1;
      } else if (tokens_.is(i, "(")) {
        begin = tokens_.size();  // parameters have gates, which declare nothing
      } else if (begin < i && tokens_.is_attribute(i)) {
        if (declare(begin, i)) i = begin - 1;  // the semicolon is next
      } else if (tokens_.is(i, "is_function_constant_defined")) {
        ask(i);
      }
    }
    for (const auto& [name, value] : values_) {
      if (used_.count(name) == 0) refuse(name);
    }
  }

 private:
  // Of an attribute at i; whether it declares a constant, which is rewritten.
  bool declare(size_t begin, size_t i) {
    std::string index;
    bool is_one = false;
    for (const Attribute& a : tokens_.read_attributes(i)) {
      if (a.name != "function_constant") continue;
      is_one = true;
      index = std::to_string(sum(a.argument));
    }
    if (!is_one) return false;
    const std::string name = tokens_.at(i - 1).text;
    known_ += (known_.empty() ? "" : ", ") + name + " (" + index + ")";
    const std::string type = type_before(begin, i - 1);
    std::string text = "extern constant " + type + name + " __asm__(\"" +
                       std::string(kSymbol) + name + "\")";
    if (const Constant* value = find(name, index)) {
      given_.insert(name);
      text = "static constexpr constant " + type + name + " = (" + type + ")(" +
             literal(*value) + ")";
    }
    tokens_.replace(begin, tokens_.closing(i) + 1, text);
    return true;
  }

  // Words that say where a constant lies are no part of its type.
  std::string type_before(size_t begin, size_t end) {
    std::string type;
    for (size_t k = begin; k < end; ++k) {
      bool is_type = true;
      for (const char* word : {"constant", "const", "static", "constexpr"}) {
        is_type = is_type && !tokens_.is(k, word);
      }
      if (is_type) type += tokens_.at(k).text + ' ';
    }
    return type;
  }

  const Constant* find(const std::string& name, const std::string& index) {
    for (const std::string& key : {name, index}) {
      if (const auto found = values_.find(key); found != values_.end()) {
        used_.insert(key);
        return &found->second;
      }
    }
    return nullptr;
  }

  // is_function_constant_defined(name)
  void ask(size_t i) {
    const size_t close = tokens_.closing(i + 1);
    const std::string name = tokens_.join(i + 2, close);
    tokens_.erase(i + 1, close + 1);
    tokens_.at(i).text = given_.count(name) != 0 ? "true" : "false";
  }

  // Of an index: numbers, and sums of some, as macros make them.
  static uint64_t sum(const std::string& text) {
    uint64_t total = 0;
    for (const char* at = text.c_str(); *at != 0;) {
      char* end = nullptr;
      const uint64_t number = std::strtoull(at, &end, 0);
      if (end == at) {
        ++at;
      } else {
        total += number;
        at = end;
      }
    }
    return total;
  }

  [[noreturn]] void refuse(const std::string& name) const {
    throw Error(ErrorKind::compile,
                "simulator: expected values of function constants that the "
                "text declares (" +
                    (known_.empty() ? std::string("none") : known_) +
                    "), got one of " + name + "; leave it out");
  }

  TokenList& tokens_;
  const Constants& values_;
  std::set<std::string> given_;  // names that have a value
  std::set<std::string> used_;   // keys of values_
  std::string known_;
};

}  // namespace

void give_constants(TokenList& tokens, const Constants& values) {
  FunctionConstants(tokens, values).run();
}

std::string missing_constant(const std::string& message) {
  const size_t at = message.find(kSymbol);
  if (at == message.npos) return {};
  const size_t begin = at + kSymbol.size();
  return message.substr(begin, message.find_first_of(" \n", begin) - begin);
}

std::string text_of(const Constants& values) {
  std::string text;
  for (const auto& [name, value] : values) {
    text += name + '=' + literal(value) + '\0';
  }
  return text;
}

}  // namespace orchard::sim
