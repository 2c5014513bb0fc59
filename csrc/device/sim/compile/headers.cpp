// csrc/device/sim/compile/headers.cpp: see headers.h.
#include "device/sim/compile/headers.h"

#include <filesystem>
#include <sstream>
#include <string_view>

#include "device/kernel_source.h"
#include "device/sim/compile/files.h"

namespace orchard::sim {
namespace {

constexpr std::string_view kSimulatorRoot = "csrc/device/sim/";
constexpr std::string_view kHeaderRoot = "csrc/device/sim/msl/";
// Headers of Metal's that kernels may include; all stand in prelude.h.
constexpr const char* kMetalHeaders[] = {
    "metal_stdlib",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_math",
    "metal_common",
    "metal_integer",
    "metal_compute",
    "metal_atomic",
    "metal_relational",
    "metal_geometric",
    "metal_types",
    "metal_limits",
    "metal_numeric",
    "metal_type_traits",
    "metal_pack",
    "metal_config",
    "metal_quadgroup",
    "metal_extended_vector",
    "metal_packed_vector",
    "metal_array",
    "metal_matrix",
    "metal_logging",
    "metal_assert",
    "metal_utility",
    "metal_initializer_list",
    "metal_functional",
    "metal_uniform",
    "metal_texture",
    "metal_graphics",
    "metal_visible_function_table",
    "metal_tensor",
    "metal_cooperative_tensor",
    "MetalPerformancePrimitives/MetalPerformancePrimitives.h",
    "MetalPerformancePrimitives/MPPTensorOpsMatMul2d.h",
};

// Of `# include <metal_stdlib>  // why`, with or without spaces and comment.
bool is_metal_include(std::string_view directive) {
  const auto skip = [&] {
    while (!directive.empty() &&
           (directive[0] == ' ' || directive[0] == '\t')) {
      directive.remove_prefix(1);
    }
  };
  const auto take = [&](std::string_view word) {
    const bool is_there = directive.starts_with(word);
    if (is_there) directive.remove_prefix(word.size());
    return is_there;
  };
  skip();
  if (!take("include")) return false;
  skip();
  if (!take("<")) return false;
  for (const std::string_view name : kMetalHeaders) {
    const std::string_view before = directive;
    if (take(name) && take(">")) {
      skip();
      return directive.empty() || directive.starts_with("//");
    }
    directive = before;
  }
  return false;
}

// Whether each header lies there as it is embedded, and nobody else's.
bool holds_headers(const std::string& folder) {
  for (const device::EmbeddedText& entry : device::embedded_texts()) {
    if (!entry.path.starts_with(kHeaderRoot)) continue;
    const std::string path =
        folder + "/" + std::string(entry.path.substr(kHeaderRoot.size()));
    if (!is_own_file(path) || read_file(path) != entry.text) return false;
  }
  return exists(folder + "/metal_stdlib");
}

}  // namespace

bool includes_files(std::string text) {
  for (size_t at = 0; (at = text.find('\\', at)) != text.npos;) {
    const size_t end = text.find_first_not_of(" \t\r", at + 1);
    if (end != text.npos && text[end] == '\n') {
      text.erase(at, end + 1 - at);  // the line goes on
    } else {
      ++at;
    }
  }
  std::istringstream lines(std::move(text));
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    size_t hash = line.find('#');
    if (hash == line.npos) hash = line.find("%:");
    if (hash == line.npos) continue;
    const std::string_view directive = std::string_view(line).substr(hash + 1);
    for (const char* word : {"include", "import", "embed", "/*"}) {
      if (directive.find(word) != directive.npos &&
          !is_metal_include(directive)) {
        return true;
      }
    }
  }
  return false;
}

const std::string& embedded_simulator() {
  static const std::string text = [] {
    std::string text;
    for (const device::EmbeddedText& entry : device::embedded_texts()) {
      if (entry.path.starts_with(kSimulatorRoot)) {
        text += entry.path;
        text += entry.text;
      }
    }
    return text;
  }();
  return text;
}

std::string header_folder() {
  const std::string folder =
      cache_folder() + "/headers-" + digest(embedded_simulator()).substr(0, 16);
  if (holds_headers(folder)) return folder;
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  ScratchFolder scratch;
  const std::string fresh = scratch.path() + "/headers";
  std::filesystem::create_directory(fresh);
  for (const device::EmbeddedText& entry : device::embedded_texts()) {
    if (!entry.path.starts_with(kHeaderRoot)) continue;
    const std::string_view name = entry.path.substr(kHeaderRoot.size());
    write_file(fresh + "/" + std::string(name), entry.text);
  }
  std::filesystem::create_directory(fresh + "/MetalPerformancePrimitives");
  for (const char* name : kMetalHeaders) write_file(fresh + "/" + name, "");
  // Another process may have been first; then its folder is as good.
  std::filesystem::rename(fresh, folder, ignored);
  return folder;
}

std::string precompiled(const std::string& header,
                        const Words& command,
                        const Words& flags) {
  const std::string headers = header_folder();
  const std::string key =
      digest(headers + joined(flags) + identity(find_toolchain()));
  const std::string target = cache_folder() + "/" +
                             header.substr(0, header.find('.')) + "-" +
                             key.substr(0, 16) + ".pch";
  if (is_own_file(target)) return target;
  const ScratchFolder scratch;
  const std::string fresh = scratch.path() + "/header.pch";
  Words words = flags;
  // It names the headers that it was made from, and wants to find them there;
  // by content, not by time, as a cache may be copied.
  words.insert(words.end(),
               {"-I" + headers, headers + "/" + header, "-o", fresh});
  run_step(command, words, scratch.path());
  put_in_place(fresh, target);
  return target;
}

std::string source_of(const CompileRequest& request) {
  return device::kernel_source(request.text, request.name, request.defines,
                               request.include_folders);
}

Words include_flags(const CompileRequest& request) {
  Words words;
  for (const std::string& folder : request.include_folders) {
    words.push_back("-I" + folder);
  }
  return words;
}

std::string preprocess(const std::string& source,
                       const Toolchain& tools,
                       const Words& flags,
                       const std::string& folder) {
  const std::string headers = header_folder();
  const std::string from = folder + "/kernel.metal";
  const std::string to = folder + "/kernel.ii";
  write_file(from, source);
  Words step = {"-E", "-xc++", "-std=c++20", "-nostdinc", "-I" + headers};
  step.insert(step.end(), flags.begin(), flags.end());
  step.insert(step.end(), {"-include", headers + "/macros.h", from, "-o", to});
  run_step(tools.driver, step, folder);
  return read_file(to);
}

}  // namespace orchard::sim
