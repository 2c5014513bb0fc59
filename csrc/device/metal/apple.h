// csrc/device/metal/apple.h: metal-cpp, and what makes its retain rules hold:
// "new", "alloc" and "copy" give an object that we own (NS::TransferPtr), all
// other calls one that lives until the pool ends.
#pragma once

#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>

#include <string>

namespace orchard::metal {

// Autoreleased; call inside an AutoreleaseScope.
inline NS::String* to_ns(const std::string& text) {
  return NS::String::string(text.c_str(), NS::UTF8StringEncoding);
}

inline std::string to_std(const NS::String* text) {
  const char* bytes = text == nullptr ? nullptr : text->utf8String();
  return bytes == nullptr ? "" : bytes;
}

inline std::string to_std(const NS::Error* error) {
  if (error == nullptr) return "Metal gave no reason";
  return to_std(error->localizedDescription());
}

// metal-cpp sends messages unchecked, and one that the running system lacks
// ends the process: ask before using what is newer than macOS 13.
inline bool is_macos_at_least(int major) {
  return NS::ProcessInfo::processInfo()->isOperatingSystemAtLeastVersion(
      {major, 0, 0});
}

}  // namespace orchard::metal
