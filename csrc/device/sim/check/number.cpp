// csrc/device/sim/check/number.cpp: see number.h.
#include "device/sim/check/number.h"

#include <cstdlib>
#include <string>

#include "device/sim/compile/token_list.h"

namespace orchard::sim::check {
namespace {

class Number : TokenList {
 public:
  explicit Number(std::string_view text) : TokenList(text) {}

  std::optional<long> run() {
    const std::optional<long> value = sum();
    return k_ == size() ? value : std::nullopt;
  }

 private:
  std::optional<long> sum() {
    std::optional<long> value = product();
    while (value && (is(k_, "+") || is(k_, "-"))) {
      const long sign = is(k_++, "+") ? 1 : -1;
      const std::optional<long> other = product();
      if (!other) return std::nullopt;
      value = *value + sign * *other;
    }
    return value;
  }

  std::optional<long> product() {
    std::optional<long> value = unit();
    while (value && (is(k_, "*") || is(k_, "/"))) {
      const bool is_product = is(k_++, "*");
      const std::optional<long> other = unit();
      if (!other || (!is_product && *other == 0)) return std::nullopt;
      value = is_product ? *value * *other : *value / *other;
    }
    return value;
  }

  std::optional<long> unit() {
    if (is(k_, "-") || is(k_, "+")) {
      const long sign = is(k_++, "+") ? 1 : -1;
      const std::optional<long> value = unit();
      if (!value) return std::nullopt;
      return sign * *value;
    }
    if (is(k_, "(")) {
      ++k_;
      const std::optional<long> value = sum();
      if (!value || !is(k_, ")")) return std::nullopt;
      ++k_;
      return value;
    }
    if (k_ >= size() || at(k_).kind != TokenKind::number) return std::nullopt;
    const std::string& text = at(k_++).text;
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 0);
    const std::string rest = end;
    if (rest.find_first_not_of("uUlL") != rest.npos) return std::nullopt;
    return value;
  }

  size_t k_ = 0;
};

}  // namespace

std::optional<long> number_of(std::string_view expression) {
  return Number(expression).run();
}

}  // namespace orchard::sim::check
