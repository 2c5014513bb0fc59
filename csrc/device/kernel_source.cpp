// csrc/device/kernel_source.cpp: resolves a kernel's includes from the texts
// inside the library; see kernel_source.h.
#include "device/kernel_source.h"

#include <unistd.h>

#include <algorithm>
#include <set>

namespace orchard::device {
namespace {

class Assembler {
 public:
  Assembler() = default;
  // Includes that are not ours are the preprocessor's to find.
  explicit Assembler(std::span<const std::string> folders)
      : folders_(folders), is_ours_(false) {}

  void define(const Defines& defines) {
    for (const auto& [name, value] : defines) {
      out_ += "#define " + name + " " + value + "\n";
    }
  }

  void add_file(std::string_view path) {
    const std::string_view text = embedded_text(path);
    if (text.data() == nullptr) {
      throw Error(ErrorKind::compile,
                  "kernel_source: no kernel file " + std::string(path));
    }
    if (done_.insert(std::string(path)).second) add_text(text, path);
  }

  void add_text(std::string_view text, std::string_view name) {
    mark(1, name);
    for (size_t line = 1, at = 0; at < text.size(); ++line) {
      const size_t end = std::min(text.find('\n', at), text.size());
      add_line(text.substr(at, end - at), name, line);
      at = end + 1;
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void add_line(std::string_view line, std::string_view name, size_t number) {
    const std::string_view quoted = included(line);
    const std::string ours = "kernels/" + std::string(quoted);
    if (!quoted.empty() && (is_ours_ || is_for_us(quoted, ours))) {
      add_file(ours);
      mark(number + 1, name);
      return;
    }
    // Each file appears once anyway.
    if (!line.starts_with("#pragma once")) out_ += line;
    out_ += '\n';
  }

  bool is_for_us(std::string_view quoted, const std::string& ours) const {
    return embedded_text(ours).data() != nullptr &&
           std::none_of(folders_.begin(), folders_.end(),
                        [&](std::string path) {
                          path.append("/").append(quoted);
                          return access(path.c_str(), F_OK) == 0;
                        });
  }

  // The name in #include "name", else nothing.
  static std::string_view included(std::string_view line) {
    const size_t hash = line.find_first_not_of(" \t");
    if (hash == line.npos || !line.substr(hash).starts_with("#include \"")) {
      return {};
    }
    const size_t open = line.find('"') + 1;
    const size_t close = line.find('"', open);
    return close == line.npos ? std::string_view{}
                              : line.substr(open, close - open);
  }

  void mark(size_t line, std::string_view name) {
    out_ +=
        "#line " + std::to_string(line) + " \"" + std::string(name) + "\"\n";
  }

  std::span<const std::string> folders_;
  bool is_ours_ = true;
  std::string out_;
  std::set<std::string> done_;
};

}  // namespace

std::string_view embedded_text(std::string_view path) {
  for (const EmbeddedText& entry : embedded_texts()) {
    if (entry.path == path) return entry.text;
  }
  return {};
}

std::string kernel_source(const PipelineRequest& request) {
  Assembler assembler;
  assembler.define(request.defines);
  assembler.add_file("kernels/" + std::string(request.file));
  return assembler.take();
}

std::string kernel_source(std::string_view text,
                          std::string_view name,
                          const Defines& defines,
                          std::span<const std::string> folders) {
  Assembler assembler(folders);
  assembler.define(defines);
  assembler.add_text(text, name);
  return assembler.take();
}

}  // namespace orchard::device
