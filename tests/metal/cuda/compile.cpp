// tests/metal/cuda/compile.cpp: the simulator's translator does Metal's syntax,
// this adds CUDA's; see compile.h.
#include "cuda/compile.h"

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "device/kernel_source.h"
#include "device/sim/compile/files.h"
#include "device/sim/compile/token.h"
#include "device/sim/compile/translate.h"

namespace orchard::cuda {
namespace {

using Words = std::vector<std::string>;

constexpr std::string_view kMacros = "csrc/device/sim/msl/macros.h";
constexpr std::string_view kHeader = "tests/metal/cuda/metal_on_cuda.h";

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

void replace_all(std::string& text,
                 std::string_view from,
                 std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos;) {
    text.replace(at, from.size(), to);
    at += to.size();
  }
}

std::string preprocessed(std::string source) {
  const sim::ScratchFolder scratch;
  const std::string& at = scratch.path();
  // Metal's own headers stand in metal_on_cuda.h.
  replace_all(source, "#include <metal_", "#pragma metal_");
  sim::write_file(at + "/kernel.metal",
                  std::string(device::embedded_text(kMacros)) + source);
  run_step({"c++", "-E", "-xc++", "-std=c++20", "-nostdinc",
            at + "/kernel.metal", "-o", at + "/kernel.ii"},
           at);
  // Without the scratch folder's name, so that equal texts are equal.
  std::string text = sim::read_file(at + "/kernel.ii");
  replace_all(text, at + "/", "");
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
std::string cuda_word(const std::string& word) {
  if (word == "device" || word == "thread" || word == "threadgroup") return "";
  if (word == "constant") return "const";
  if (word == "inline") return "__device__ __forceinline__";
  return word;
}

std::string with_cuda_words(std::string text, const std::string& function) {
  replace_all(text, "#pragma clang loop unroll(full)", "#pragma unroll");
  std::vector<sim::Token> tokens = sim::tokenize(text);
  const auto is = [&](size_t i, std::string_view word) {
    return i < tokens.size() && tokens[i].is(word);
  };
  bool has_function = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (is(i, "void") && is(i + 2, function) && is(i + 3, "(")) {
      tokens[i].text = "__device__ void";
      has_function = true;
    } else if (is(i, "local") && is(i + 1, "<") && is(i + 3, ">")) {
      // local<type>(number): each threadgroup variable gets its own memory.
      tokens[i + 2].text += ", " + tokens[i + 5].text;
      tokens[i + 5].text.clear();
    } else {
      tokens[i].text = cuda_word(tokens[i].text);
    }
  }
  if (!has_function) {
    throw Error(ErrorKind::compile, "cuda: no function " + function);
  }
  std::string out;
  for (const sim::Token& token : tokens) out += token.text;
  return out;
}

constexpr std::string_view kBuffer = "buffer<";  // buffer<(3)>

int slot_of(const sim::KernelParameter& parameter) {
  return std::stoi(parameter.source.substr(kBuffer.size() + 1));
}

// Where the bytes of a reference lie: known here, so that nvcc reads them from
// constant memory without an address.
std::string offset_of(const sim::KernelText& kernel, int slot) {
  size_t before = 0;
  for (const sim::KernelParameter& other : kernel.parameters) {
    if (other.is_reference && slot_of(other) < slot) ++before;
  }
  return std::to_string(before * kBlockBytes);
}

// The kernel's function is called by the entry point: its arguments.
std::string call_of(const sim::KernelText& kernel) {
  std::string text = kernel.function + "(";
  for (const sim::KernelParameter& parameter : kernel.parameters) {
    if (!text.ends_with('(')) text += ", ";
    const std::string& source = parameter.source;
    if (!source.starts_with(kBuffer)) {
      text += source + "()";
    } else if (parameter.is_reference) {
      text += "reference{bindings.bytes + " +
              offset_of(kernel, slot_of(parameter)) + "}";
    } else {
      text += "pointer{bindings.buffers[" + std::to_string(slot_of(parameter)) +
              "]}";
    }
  }
  return text + ");";
}

}  // namespace

std::string cuda_source(const device::PipelineRequest& request) {
  const sim::Translation found =
      sim::translate_text(preprocessed(device::kernel_source(request)));
  const sim::KernelText& kernel = kernel_named(found, request.entry);
  return std::string(device::embedded_text(kHeader)) +
         with_cuda_words(found.body, kernel.function) +
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
  if (const char* more = std::getenv("ORCHARD_NVCC_FLAGS")) {
    std::istringstream words(more);
    for (std::string word; words >> word;) flags.push_back(word);
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
