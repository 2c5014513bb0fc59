// csrc/attention/problem.cpp: the parts of a problem that need no templates.
#include "attention/problem.h"

namespace orchard::attention {

void check_settings(const char* operation, const Settings& settings) {
  if (!std::isfinite(settings.scale)) {
    refuse(operation, "scale must be a finite number, got ", settings.scale,
           "; leave it out for 1/sqrt(head_dim)");
  }
  if (!std::isfinite(settings.softcap) || settings.softcap < 0.0) {
    refuse(operation, "softcap must be 0 (none) or positive, got ",
           settings.softcap);
  }
  if (!(settings.dropout_p >= 0.0 && settings.dropout_p < 1.0)) {
    refuse(operation, "dropout_p must be in [0, 1), got ", settings.dropout_p);
  }
  if (settings.window_left < -1 || settings.window_right < -1) {
    refuse(operation, "window sizes must be -1 (open) or more, got (",
           settings.window_left, ", ", settings.window_right, ")");
  }
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
