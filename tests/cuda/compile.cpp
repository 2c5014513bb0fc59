// tests/cuda/compile.cpp: the simulator's translator does Metal's syntax, this
// adds CUDA's; see compile.h.
#include "cuda/compile.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <regex>

#include "device/kernel_source.h"
#include "device/sim/files.h"
#include "device/sim/translate.h"

namespace orchard::cuda {
namespace {

using Words = std::vector<std::string>;

constexpr std::string_view kMacros = "csrc/device/sim/msl/macros.h";
constexpr std::string_view kHeader = "tests/cuda/metal_on_cuda.h";

void run_step(const Words& command, const std::string& folder) {
  const sim::Outcome outcome = sim::run_program(command, folder);
  if (outcome.status != 0) {
    throw Error(ErrorKind::compile,
                "cuda: " + command[0] + " failed\n" + outcome.output);
  }
}

std::string nvcc() {
  const char* given = std::getenv("ORCHARD_NVCC");
  return given ? given : "nvcc";
}

// Metal's own headers stand in metal_on_cuda.h.
std::string preprocessed(const std::string& source) {
  const sim::ScratchFolder scratch;
  const std::string& at = scratch.path();
  const std::regex metal_header("#include <metal_[a-z_]*>");
  sim::write_file(at + "/kernel.metal",
                  std::string(device::embedded_text(kMacros)) +
                      std::regex_replace(source, metal_header, ""));
  run_step({"c++", "-E", "-xc++", "-std=c++20", "-nostdinc",
            at + "/kernel.metal", "-o", at + "/kernel.ii"},
           at);
  // Without the scratch folder's name, so that equal texts are equal.
  std::string text = sim::read_file(at + "/kernel.ii");
  for (size_t found; (found = text.find(at + "/")) != text.npos;) {
    text.erase(found, at.size() + 1);
  }
  return text;
}

const sim::KernelText& kernel_named(const sim::Translation& found,
                                    std::string_view name) {
  for (const sim::KernelText& kernel : found.kernels) {
    if (kernel.name == name && !kernel.is_template) return kernel;
  }
  throw Error(ErrorKind::compile, "cuda: no kernel " + std::string(name));
}

// Not by macros: "device" stands in the expansion of CUDA's own __device__.
std::string with_cuda_words(std::string text) {
  const std::pair<const char*, const char*> replacements[] = {
      {"#pragma clang loop unroll\\(full\\)", "#pragma unroll"},
      // Each threadgroup variable gets memory of its own.
      {"local<(\\w+)>\\((\\d+)\\)", "local<$1, $2>()"},
      {"\\b(device|thread|threadgroup)\\b", ""},
      {"\\bconstant\\b", "const"},
      {"\\binline\\b", "__device__ __forceinline__"},
  };
  for (const auto& [from, to] : replacements) {
    text = std::regex_replace(text, std::regex(from), to);
  }
  return text;
}

// The kernel's function is called by the entry point: its arguments.
std::string call_of(const sim::KernelText& kernel) {
  const std::regex buffer("buffer<\\((\\d+)\\)>");
  std::string text = kernel.function + "(";
  for (const sim::KernelParameter& parameter : kernel.parameters) {
    if (!text.ends_with('(')) text += ", ";
    std::smatch slot;
    if (!std::regex_match(parameter.source, slot, buffer)) {
      text += parameter.source + "()";
    } else if (parameter.is_reference) {
      text += "reference{bindings.bytes}";
    } else {
      text += "pointer{bindings.buffers[" + slot[1].str() + "]}";
    }
  }
  return text + ");";
}

}  // namespace

std::string cuda_source(const device::PipelineRequest& request) {
  const sim::Translation found =
      sim::translate_text(preprocessed(device::kernel_source(request)));
  const sim::KernelText& kernel = kernel_named(found, request.entry);
  std::string body = with_cuda_words(found.body);
  const std::regex definition("void(\\s+" + kernel.function + "\\s*\\()");
  if (!std::regex_search(body, definition)) {
    throw Error(ErrorKind::compile, "cuda: no function " + kernel.function);
  }
  body = std::regex_replace(body, definition, "__device__ void$1");
  return std::string(device::embedded_text(kHeader)) + body +
         "\nextern \"C\" __global__ void __launch_bounds__(" +
         kernel.max_threads + ") " + kernel.name +
         "_entry(const __grid_constant__ Bindings bindings) {\n  using "
         "namespace orchard::sim::entry;\n  " +
         call_of(kernel) + "\n}\n";
}

std::string compile(const device::PipelineRequest& request,
                    const std::string& architecture) {
  const std::string source = cuda_source(request);
  Words flags = {"-cubin",    "-arch=" + architecture,
                 "-O3",       "-std=c++20",
                 "-lineinfo", "-w"};
  if (std::getenv("ORCHARD_CUDA_WITHOUT_BARRIERS") != nullptr) {
    flags.push_back("-DMETAL_ON_CUDA_WITHOUT_BARRIERS");
  }
  std::string key = source;
  for (const std::string& flag : flags) key += '\0' + flag;
  const std::string target =
      sim::cache_folder() + "/" + sim::digest(key) + ".cubin";
  if (sim::exists(target)) return target;
  const sim::ScratchFolder scratch;
  const std::string& at = scratch.path();
  sim::write_file(at + "/kernel.cu", source);
  Words command = {nvcc()};
  command.insert(command.end(), flags.begin(), flags.end());
  command.insert(command.end(),
                 {at + "/kernel.cu", "-o", at + "/kernel.cubin"});
  run_step(command, at);
  std::filesystem::rename(at + "/kernel.cubin", target);
  return target;
}

}  // namespace orchard::cuda
