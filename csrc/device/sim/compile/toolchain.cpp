// csrc/device/sim/compile/toolchain.cpp: see toolchain.h.
#include "device/sim/compile/toolchain.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>

#include "device/device.h"
#include "device/sim/compile/files.h"
#include "device/sim/sim.h"

namespace orchard::sim {
namespace {

// Without a second target clang 19 crashes in this mode.
#if defined(__aarch64__)
constexpr const char* kAuxTriple = "aarch64-unknown-linux-gnu";
constexpr const char* kNative = "-mcpu=native";
#else
constexpr const char* kAuxTriple = "x86_64-pc-linux-gnu";
constexpr const char* kNative = "-march=native";
#endif

// Words of a command; quotes keep spaces, as in a shell.
Words split(const std::string& text) {
  Words words;
  std::string word;
  char quote = 0;
  for (const char c : text + ' ') {
    if (quote != 0 ? c == quote : (c == '\'' || c == '"')) {
      quote = quote != 0 ? char{0} : c;
    } else if (quote != 0 || c != ' ') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, {}));
    }
  }
  return words;
}

std::string find_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

// Command that compiles C++, as words.
Words compiler() {
  if (Words words = split(options().compiler); !words.empty()) return words;
  if (const char* text = std::getenv("ORCHARD_SIM_CXX")) {
    if (Words words = split(text); !words.empty()) return words;
  }
  for (const char* name :
       {"clang++", "clang++-20", "clang++-19", "clang++-18"}) {
    if (std::string found = find_in_path(name); !found.empty()) return {found};
  }
  if (std::string zig = find_in_path("zig"); !zig.empty()) return {zig, "c++"};
  if (std::string python = find_in_path("python3"); !python.empty()) {
    return {python, "-m", "ziglang", "c++"};
  }
  throw Error(ErrorKind::compile,
              "simulator: no compiler found; pip install ziglang, or set "
              "ORCHARD_SIM_CXX to a clang");
}

// The program may have been replaced under the same version.
std::string version_of(const Words& driver) {
  const ScratchFolder scratch;
  Words command = driver;
  command.push_back("--version");
  const Outcome outcome = run_program(command, scratch.path());
  if (outcome.status != 0) {
    throw Error(ErrorKind::compile,
                "simulator: expected a compiler, but `" + joined(command) +
                    "` failed; set ORCHARD_SIM_CXX to a clang, or pip install "
                    "ziglang\n" +
                    outcome.output);
  }
  std::istringstream lines(outcome.output);
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("InstalledDir")) text += line + '\n';
  }
  std::error_code none;
  const auto size = std::filesystem::file_size(driver[0], none);
  return none ? text : text + std::to_string(size);
}

// -march=native binaries must not wander.
std::string processor() {
  std::string text;
  std::istringstream cpu(read_file("/proc/cpuinfo"));
  for (std::string line; std::getline(cpu, line) && !line.empty();) {
    if (line.starts_with("flags") || line.starts_with("Features") ||
        line.starts_with("model name")) {
      text += line;
    }
  }
  return text;
}

bool unrolls() {
  const char* text = std::getenv("ORCHARD_SIM_UNROLL");
  const std::string word = text ? text : "";
  if (word.empty() || word == "1") return true;
  if (word == "0") return false;
  throw Error(ErrorKind::invalid_problem,
              "[simulator] expected ORCHARD_SIM_UNROLL to be 0 or 1, got '" +
                  word + "'; unset it for 1");
}

}  // namespace

// zig's `c++` would keep a second cache, link every object once more and build
// its own runtime library: clang and lld are called as they are.
Toolchain find_toolchain() {
  const Words cxx = compiler();
  Toolchain tools{cxx, cxx, cxx};
  if (cxx.size() > 1 && cxx.back() == "c++") {
    tools.driver.back() = "clang";
    tools.front_end.back() = "clang";
    tools.linker.back() = "ld.lld";
    tools.linker.push_back("-shared");
  } else {
    tools.linker.insert(tools.linker.end(), {"-shared", "-nostdlib"});
  }
  tools.front_end.push_back("-cc1");
  return tools;
}

Words compile_flags(bool is_strict) {
  Words words = {"-std=c++20",
                 kNative,
                 "-fPIC",
                 "-nostdinc",
                 "-w",
                 "-ffp-contract=off",
                 "-fno-math-errno",
                 "-fno-strict-aliasing",
                 "-fno-exceptions",
                 "-fno-rtti",
                 "-fno-stack-protector",
                 "-fno-threadsafe-statics",
                 "-ftrivial-auto-var-init=pattern",
                 "-ferror-limit=20",
                 "-gdwarf-4",
                 "-gline-tables-only",
                 "-Xclang",
                 "-fsycl-is-device",
                 "-Xclang",
                 "-aux-triple",
                 "-Xclang",
                 kAuxTriple,
                 "-Xclang",
                 "-ffloat16-excess-precision=none",
                 "-Xclang",
                 "-fbfloat16-excess-precision=none"};
  if (!unrolls()) {
    words.insert(words.end(), {"-mllvm", "-unroll-threshold=0"});
  }
  if (is_strict) {
    words.insert(words.end(), {"-O1", "-fno-vectorize", "-fno-slp-vectorize",
                               "-DMSL_STRICT=1", "-Xclang", "-fsanitize=thread",
                               "-Xclang", "-fsanitize=array-bounds", "-Xclang",
                               "-fsanitize-recover=array-bounds", "-mllvm",
                               "-tsan-instrument-func-entry-exit=0", "-mllvm",
                               "-tsan-instrument-atomics=0", "-mllvm",
                               "-tsan-instrument-read-before-write=1",
                               // A vector's load stays one access.
                               "-mllvm", "-disable-vector-combine"});
  } else {
    words.push_back("-O2");
  }
  return words;
}

bool has_flags(const Toolchain& tools) {
  for (size_t i = 1; i < tools.driver.size(); ++i) {
    const std::string& word = tools.driver[i];
    if (word.starts_with('-') && word != "-m")
      return true;  // python -m ziglang
  }
  return false;
}

std::string identity(const Toolchain& tools) {
  static std::mutex mutex;
  static auto* const known = new std::map<std::string, std::string>;
  const std::lock_guard lock(mutex);
  std::string& text = (*known)[joined(tools.driver)];
  if (text.empty()) {
    const Words flags(tools.driver.begin() + 1, tools.driver.end());
    text = version_of(tools.driver) + joined(flags) + processor();
  }
  return text;
}

void run_step(Words command, const Words& more, const std::string& folder) {
  command.insert(command.end(), more.begin(), more.end());
  const Outcome outcome = run_program(command, folder);
  if (outcome.status != 0) {
    throw Error(ErrorKind::compile,
                "simulator: the kernel does not compile\n" + outcome.output);
  }
}

std::string joined(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += word + ' ';
  return text;
}

}  // namespace orchard::sim
