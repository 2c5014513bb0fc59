// csrc/device/sim/check/accept_text.cpp: runs the type checker of Metal's
// rules; see sim.h.
#include <regex>

#include "device/sim/check/accept.h"
#include "device/sim/compile/compile.h"
#include "device/sim/compile/files.h"
#include "device/sim/compile/headers.h"
#include "device/sim/check/opencl.h"
#include "device/sim/compile/toolchain.h"

namespace orchard::sim {
namespace {

// C++ for OpenCL is the one language of clang's that keeps all of Metal's
// address spaces apart, the private one of threads among them.
Words type_flags(int version) {
  return {"-triple",
          "spir64-unknown-unknown",
          "-x",
          "clcpp",
          "-cl-std=clc++2021",
          "-cl-single-precision-constant",
          "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,"
          "-__opencl_c_device_enqueue,"
          "-__opencl_c_program_scope_global_variables",
          "-fdeclspec",
          "-O2",
          "-disable-llvm-passes",
          "-w",
          "-ferror-limit",
          "20",
          "-DMSL_LANGUAGE=" + std::to_string(version)};
}

// Beyond so many bytes, which no kernel of this package comes near, the
// optimizer would take minutes: what lies in stack memory stays unsaid.
constexpr size_t kOptimizable = size_t{16} << 20;

// Says in Metal's words what the compiler says in OpenCL's.
std::string in_metals_words(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> words[] = {
      {"__private ", "thread "},
      {"__global ", "device "},
      {"__local ", "threadgroup "},
      {"__constant ", "constant "},
      {" __private", ""},
      {"__generic ", ""},
      {"msl::", ""}};
  for (const auto& [from, to] : words) {
    for (size_t at = 0; (at = text.find(from, at)) != text.npos;) {
      text.replace(at, from.size(), to);
    }
  }
  static const auto* const component = new std::regex(
      "no member named '([xyzwrgba]{1,4})' in '((packed_)?vec<)");
  static const auto* const member = new std::regex(
      "no member named '(\\w+)' in '(metal::)?msl_atomic<(.*)>'");
  text = std::regex_replace(text, *component,
                            "illegal vector component name '$1' in '$2");
  return std::regex_replace(text, *member,
                            "atomic<$3> is used by functions such as "
                            "atomic_fetch_add_explicit, not by '.$1'");
}

// Type-checks kernel.cl in `folder` and writes typed.ll there.
void type_check(std::string text,
                int version,
                const Toolchain& tools,
                const std::string& folder) {
  Words words = tools.front_end;
  const Words flags = type_flags(version);
  Words header = flags;
  header.insert(header.end(), {"-fno-pch-timestamp", "-emit-pch"});
  const std::string declared = precompiled("accept.h", tools.front_end, header);
  words.insert(words.end(), flags.begin(), flags.end());
  words.insert(words.end(),
               {"-I" + header_folder(), "-emit-llvm", "-include-pch", declared,
                folder + "/kernel.cl", "-o", folder + "/typed.ll"});
  constexpr int most_repairs = 8;
  for (int repairs = 0;; ++repairs) {
    write_file(folder + "/kernel.cl", text);
    const Outcome outcome = run_program(words, folder);
    if (outcome.status == 0) return;
    std::string repaired = repair(text, outcome.output);
    if (repaired == text || repairs == most_repairs) {
      throw Error(ErrorKind::compile,
                  "simulator: the kernel does not compile\n" +
                      in_metals_words(outcome.output));
    }
    text = std::move(repaired);
  }
}

}  // namespace

Footprint accept(const CompileRequest& request, uint32_t language_version) {
  const Toolchain tools = find_toolchain();
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  const auto version = static_cast<int>((language_version >> 16) * 100 +
                                        (language_version & 0xffff) * 10);
  Words flags = include_flags(request);
  flags.push_back("-DMSL_LANGUAGE=" + std::to_string(version));
  const std::string whole = preprocess(source_of(request), tools, flags, at);
  type_check(to_opencl(accept(whole, version)), version, tools, at);
  const std::string typed = read_file(at + "/typed.ll");
  if (typed.size() > kOptimizable) {
    return {declared_threadgroup_bytes(typed), {}};
  }
  run_step(tools.front_end,
           {"-triple", "spir64-unknown-unknown", "-x", "ir", "-O2",
            "-emit-llvm", at + "/typed.ll", "-o", at + "/optimized.ll"},
           at);
  // Threadgroup variables as declared, arrays as the optimizer left them.
  return {declared_threadgroup_bytes(typed),
          spilled_types(read_file(at + "/optimized.ll"))};
}

}  // namespace orchard::sim
