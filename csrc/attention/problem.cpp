// csrc/attention/problem.cpp: the parts of a problem that need no templates.
#include "attention/problem.h"

#include <algorithm>
#include <utility>

namespace orchard::attention {

namespace {

// As Python writes it: with a point.
std::string number_text(double number) {
  std::ostringstream text;
  text << number;
  const bool is_whole =
      text.str().find_first_not_of("-0123456789") == std::string::npos;
  return text.str() + (is_whole ? ".0" : "");
}

void check_part(const char* operation, const Part& part) {
  for (const auto& [name, offset] : {std::pair{"q_offset", part.q_offset},
                                     std::pair{"k_offset", part.k_offset}}) {
    if (offset < 0 || offset > kMaxLength) {
      refuse(operation, "expected ", name, " from 0 to ", kMaxLength, ", got ",
             offset, "; it is where the first row stands in the whole");
    }
  }
  if (part.head_offset < 0 || part.heads_total > kMaxHeads) {
    refuse(operation, "expected head_offset from 0 on and heads_total up to ",
           kMaxHeads, ", got ", part.head_offset, " and ", part.heads_total,
           "; they say which heads of the whole these are");
  }
}

}  // namespace

void check_settings(const char* operation, const Settings& settings) {
  if (!std::isfinite(settings.scale)) {
    refuse(operation, "expected a finite scale, got ",
           number_text(settings.scale),
           "; leave scale=None for 1/sqrt(head_dim)");
  }
  if (!std::isfinite(settings.softcap) || settings.softcap < 0.0) {
    refuse(operation, "expected softcap to be a finite number above 0, got ",
           number_text(settings.softcap), "; 0.0 turns it off");
  }
  if (!(settings.dropout_p >= 0.0 && settings.dropout_p < 1.0)) {
    refuse(operation, "expected dropout_p in [0, 1), got ",
           number_text(settings.dropout_p), "; 0.0 turns dropout off");
  }
  if (settings.window_left < -1 || settings.window_right < -1) {
    refuse(operation,
           "expected each side of window to be a number of keys or -1, got (",
           settings.window_left, ", ", settings.window_right,
           "); -1 is open on that side, None no window");
  }
  if (settings.part) check_part(operation, *settings.part);
  if (settings.part && settings.is_bottom_right) {
    refuse(operation,
           "expected a part of one sequence, whose rows and columns are "
           "aligned at the top left, got bottom-right; give the offsets of "
           "queries and keys instead");
  }
}

uint32_t drop_below(double dropout_p) {
  return static_cast<uint32_t>(
      std::min(std::round(dropout_p * 65536.0), 65535.0));
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      break;
  }
  return "bfloat16";
}

std::string unsupported_reason(DType dtype, const device::Limits& limits) {
  if (dtype == DType::bfloat16 && !limits.has_bfloat) {
    return "bfloat16 needs Metal 3.1 (macOS 14 or newer); this device "
           "compiles Metal " +
           std::to_string(limits.language_version >> 16) + "." +
           std::to_string(limits.language_version & 0xffff) +
           ": use float16 or float32";
  }
  return "";
}

}  // namespace orchard::attention
