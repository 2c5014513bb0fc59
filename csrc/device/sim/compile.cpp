// csrc/device/sim/compile.cpp: runs the compiler and keeps its results; see
// compile.h.
#include "device/sim/compile.h"

#include <dlfcn.h>
#if defined(__linux__)
#include <link.h>
#endif
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

#include "device/kernel_source.h"
#include "device/sim/accept.h"
#include "device/sim/files.h"
#include "device/sim/sim.h"
#include "device/sim/translate.h"

namespace orchard::sim {
namespace {

using Words = std::vector<std::string>;

// Without a second target clang 19 crashes in this mode.
#if defined(__aarch64__)
constexpr const char* kAuxTriple = "aarch64-unknown-linux-gnu";
constexpr const char* kNative = "-mcpu=native";
#else
constexpr const char* kAuxTriple = "x86_64-pc-linux-gnu";
constexpr const char* kNative = "-march=native";
#endif

constexpr std::string_view kHeaderRoot = "csrc/device/sim/msl/";
// Headers of Metal's that kernels may include; all stand in prelude.h.
constexpr const char* kMetalHeaders[] = {
    "metal_stdlib",    "metal_simdgroup",   "metal_simdgroup_matrix",
    "metal_math",      "metal_common",      "metal_integer",
    "metal_compute",   "metal_atomic",      "metal_relational",
    "metal_geometric", "metal_types",       "metal_limits",
    "metal_numeric",   "metal_type_traits", "metal_pack",
    "metal_config",    "metal_quadgroup",   "metal_extended_vector",
};

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
  if (!options().compiler.empty()) return split(options().compiler);
  if (const char* text = std::getenv("ORCHARD_SIM_CXX")) return split(text);
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

// zig's driver would build its own runtime library to link: use its linker.
Words linker(const Words& cxx) {
  Words words = cxx;
  if (words.size() > 1 && words.back() == "c++") {
    words.back() = "ld.lld";
    words.push_back("-shared");
  } else {
    words.insert(words.end(), {"-shared", "-nostdlib"});
  }
  return words;
}

Words flags(bool is_strict) {
  Words words = {"-std=c++20",
                 kNative,
                 "-fPIC",
                 "-nostdinc",
                 "-w",
                 "-fno-sanitize=undefined",
                 "-ffp-contract=off",
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
  if (is_strict) {
    words.insert(words.end(), {"-O1", "-fno-vectorize", "-fno-slp-vectorize",
                               "-DMSL_STRICT=1", "-Xclang", "-fsanitize=thread",
                               "-mllvm", "-tsan-instrument-func-entry-exit=0",
                               "-mllvm", "-tsan-instrument-atomics=0", "-mllvm",
                               "-tsan-instrument-read-before-write=1"});
  } else {
    words.push_back("-O2");
  }
  return words;
}

std::string joined(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += word + ' ';
  return text;
}

// Compiler and processor: -march=native binaries must not wander.
std::string identity(const Words& cxx) {
  std::string text = joined(cxx);
  struct stat info{};
  if (stat(cxx[0].c_str(), &info) == 0) {
    text += std::to_string(info.st_size) + ':' + std::to_string(info.st_mtime) +
            ' ';
  }
  std::istringstream cpu(read_file("/proc/cpuinfo"));
  for (std::string line; std::getline(cpu, line);) {
    if (line.starts_with("flags") || line.starts_with("Features") ||
        line.starts_with("model name")) {
      text += line;
    }
    if (line.empty()) break;
  }
  return text;
}

const std::string& all_headers() {
  static const std::string text = [] {
    std::string text;
    for (const device::EmbeddedText& entry : device::embedded_texts()) {
      if (entry.path.starts_with(kHeaderRoot)) {
        text += entry.path;
        text += entry.text;
      }
    }
    return text;
  }();
  return text;
}

// Folder with the headers and empty stand-ins for Metal's; made once.
std::string header_folder() {
  const std::string folder =
      cache_folder() + "/headers-" + digest(all_headers()).substr(0, 16);
  if (exists(folder + "/metal_stdlib")) return folder;
  ScratchFolder scratch;
  const std::string fresh = scratch.path() + "/headers";
  std::filesystem::create_directory(fresh);
  for (const device::EmbeddedText& entry : device::embedded_texts()) {
    if (!entry.path.starts_with(kHeaderRoot)) continue;
    const std::string_view name = entry.path.substr(kHeaderRoot.size());
    write_file(fresh + "/" + std::string(name), entry.text);
  }
  for (const char* name : kMetalHeaders) write_file(fresh + "/" + name, "");
  // Another process may have been first; then its folder is as good.
  std::error_code ignored;
  std::filesystem::rename(fresh, folder, ignored);
  return folder;
}

void run_step(Words command, const Words& more, const std::string& folder) {
  command.insert(command.end(), more.begin(), more.end());
  const Outcome outcome = run_program(command, folder);
  if (outcome.status != 0) {
    throw Error(ErrorKind::compile,
                "simulator: the kernel does not compile\n" + outcome.output);
  }
}

std::string preprocess(const std::string& source,
                       const Words& cxx,
                       const Words& defines,
                       const std::string& folder) {
  const std::string headers = header_folder();
  const std::string from = folder + "/kernel.metal";
  const std::string to = folder + "/kernel.ii";
  write_file(from, source);
  Words step = {"-E", "-xc++", "-std=c++20", "-nostdinc", "-I" + headers};
  step.insert(step.end(), defines.begin(), defines.end());
  step.insert(step.end(), {"-include", headers + "/macros.h", from, "-o", to});
  run_step(cxx, step, folder);
  return read_file(to);
}

void build(const std::string& source,
           bool is_strict,
           const Words& cxx,
           const std::string& target) {
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  const std::string headers = header_folder();
  write_file(
      at + "/kernel.cpp",
      "#include \"prelude.h\"\n" + translate(preprocess(source, cxx, {}, at)));
  Words compile = flags(is_strict);
  compile.insert(compile.end(), {"-I" + headers, "-c", at + "/kernel.cpp", "-o",
                                 at + "/kernel.o"});
  run_step(cxx, compile, at);
  run_step(linker(cxx), {at + "/kernel.o", "-o", at + "/kernel.so"}, at);
  std::filesystem::rename(at + "/kernel.so", target);
}

// The front end alone, of the same clang.
Words front_end(const Words& cxx) {
  Words words = cxx;
  if (words.size() > 1 && words.back() == "c++") words.back() = "clang";
  words.push_back("-cc1");
  return words;
}

// Finds where the object that holds `kernels` lies in memory.
void locate(Binary& binary) {
#if defined(__linux__)
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& b = *static_cast<Binary*>(data);
        const auto base = reinterpret_cast<const std::byte*>(info->dlpi_addr);
        const std::byte* end = base;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& row = info->dlpi_phdr[i];
          if (row.p_type != PT_LOAD) continue;
          end = std::max(end, base + row.p_vaddr + row.p_memsz);
        }
        const auto* at = reinterpret_cast<const std::byte*>(b.kernels);
        if (at < base || at >= end) return 0;
        b.begin = base;
        b.end = end;
        return 1;
      },
      &binary);
#else
  Dl_info info{};
  if (dladdr(binary.kernels, &info) == 0) return;
  binary.begin = static_cast<const std::byte*>(info.dli_fbase);
  binary.end = binary.begin + std::filesystem::file_size(binary.path);
#endif
}

std::shared_ptr<const Binary> load(const std::string& path) {
  // Kernels may call libm (roundf): make sure that it is there.
  static void* const math = dlopen("libm.so.6", RTLD_NOW | RTLD_GLOBAL);
  (void)math;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* problem = library ? nullptr : dlerror();
  auto binary = std::make_shared<Binary>();
  if (library != nullptr) {
    binary->kernels =
        static_cast<const abi::Kernel*>(dlsym(library, "orchard_kernels"));
  }
  if (binary->kernels == nullptr) {
    throw Error(ErrorKind::compile, "simulator: cannot load " + path + ": " +
                                        (problem ? problem : "no kernels"));
  }
  binary->path = path;
  locate(*binary);
  return binary;
}

}  // namespace

Footprint accept_text(const std::string& source, uint32_t language_version) {
  const Words cxx = compiler();
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  const std::string version =
      "-DMSL_LANGUAGE=" + std::to_string((language_version >> 16) * 100 +
                                         (language_version & 0xffff) * 10);
  write_file(at + "/kernel.cl", accept(preprocess(source, cxx, {version}, at)));
  // C++ for OpenCL is the one language of clang's that keeps all of Metal's
  // address spaces apart, the private one of threads among them.
  run_step(front_end(cxx),
           {"-triple", "spir64-unknown-unknown", "-x", "clcpp",
            "-cl-std=clc++2021", "-cl-single-precision-constant",
            "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,"
            "-__opencl_c_device_enqueue,"
            "-__opencl_c_program_scope_global_variables",
            "-O2", "-disable-llvm-passes", "-emit-llvm", "-w", "-ferror-limit",
            "20", version, "-include", header_folder() + "/accept.h",
            at + "/kernel.cl", "-o", at + "/typed.ll"},
           at);
  run_step(front_end(cxx),
           {"-triple", "spir64-unknown-unknown", "-x", "ir", "-O2",
            "-emit-llvm", at + "/typed.ll", "-o", at + "/optimized.ll"},
           at);
  // Threadgroup variables as declared, arrays as the optimizer left them.
  return {declared_threadgroup_bytes(read_file(at + "/typed.ll")),
          spilled_types(read_file(at + "/optimized.ll"))};
}

const abi::Kernel& Binary::find(std::string_view entry) const {
  std::string names;
  for (const abi::Kernel* kernel = kernels; kernel->name; ++kernel) {
    if (entry == kernel->name) return *kernel;
    names += std::string(names.empty() ? "" : ", ") + kernel->name;
  }
  throw Error(ErrorKind::compile, "simulator: no kernel named " +
                                      std::string(entry) +
                                      " in the text; it has: " + names);
}

std::string Binary::line_of(const void* code) const {
  const auto* at = static_cast<const std::byte*>(code);
  if (at < begin || at >= end) return {};
  std::call_once(once_, [&] { lines_ = std::make_unique<LineTable>(path); });
  // A return address may already belong to the next line.
  return lines_->find(static_cast<uint64_t>(at - begin) - 1);
}

std::shared_ptr<const Binary> compile_text(const std::string& source,
                                           bool is_strict) {
  using Future = std::shared_future<std::shared_ptr<const Binary>>;
  static std::mutex mutex;
  static auto* const done = new std::map<std::string, Future>;
  const Words cxx = compiler();
  const std::string key =
      digest(source + '\0' + all_headers() + joined(flags(is_strict)) +
             identity(cxx) + std::to_string(abi::version));
  const std::string target = cache_folder() + "/" + key + ".so";
  std::promise<std::shared_ptr<const Binary>> promise;
  {
    std::unique_lock lock(mutex);
    if (const auto found = done->find(key); found != done->end()) {
      const Future future = found->second;
      lock.unlock();
      return future.get();
    }
    done->emplace(key, promise.get_future().share());
  }
  try {
    if (!exists(target)) build(source, is_strict, cxx, target);
    promise.set_value(load(target));
  } catch (...) {
    promise.set_exception(std::current_exception());
  }
  const std::lock_guard lock(mutex);
  const Future future = done->at(key);
  // A failure is told once to all who wait, then may be tried again.
  try {
    return future.get();
  } catch (...) {
    done->erase(key);
    throw;
  }
}

}  // namespace orchard::sim
