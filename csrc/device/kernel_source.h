// csrc/device/kernel_source.h: one self-contained text from a kernel file, its
// includes and the defines of a specialisation.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "device/device.h"

namespace orchard::device {

// A text that travels inside the library, by its path from the source root.
struct EmbeddedText {
  std::string_view path;
  std::string_view text;
};

std::span<const EmbeddedText> embedded_texts();
// Empty when there is none.
std::string_view embedded_text(std::string_view path);

using Defines = std::vector<std::pair<std::string, std::string>>;

// Our own kernel: request.file is relative to kernels/.
std::string kernel_source(const PipelineRequest& request);

// A user's text; #include "…" of our own kernel files resolves too, unless one
// of the user's folders has a file of that name.  What is neither stays.
std::string kernel_source(std::string_view text,
                          std::string_view name,
                          const Defines& defines,
                          std::span<const std::string> folders = {});

}  // namespace orchard::device
