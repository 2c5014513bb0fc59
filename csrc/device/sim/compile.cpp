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
#include "device/sim/toolchain.h"
#include "device/sim/translate.h"

namespace orchard::sim {
namespace {

constexpr std::string_view kSimulatorRoot = "csrc/device/sim/";
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

// All that what is compiled depends on: the headers, and the translator.
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

// Folder with the headers and empty stand-ins for Metal's; made once.
std::string header_folder() {
  const std::string folder =
      cache_folder() + "/headers-" + digest(embedded_simulator()).substr(0, 16);
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

// prelude.h as the compiler keeps it after reading it, made once: that takes as
// long as half a kernel.
std::string precompiled_prelude(bool is_strict, const Toolchain& tools) {
  const std::string headers = header_folder();
  Words words = compile_flags(is_strict);
  // It names the headers that it was made from, and wants to find them there.
  words.insert(words.end(),
               {"-I" + headers, "-x", "c++-header", headers + "/prelude.h"});
  const std::string key = digest(joined(words) + identity(tools));
  const std::string target =
      cache_folder() + "/prelude-" + key.substr(0, 16) + ".pch";
  if (exists(target)) return target;
  const ScratchFolder scratch;
  const std::string fresh = scratch.path() + "/prelude.pch";
  // By content, not by time: a cache may be copied.
  words.insert(words.end(), {"-Xclang", "-fno-pch-timestamp", "-o", fresh});
  run_step(tools.driver, words, scratch.path());
  std::filesystem::rename(fresh, target);
  return target;
}

std::string preprocess(const std::string& source,
                       const Toolchain& tools,
                       const Words& defines,
                       const std::string& folder) {
  const std::string headers = header_folder();
  const std::string from = folder + "/kernel.metal";
  const std::string to = folder + "/kernel.ii";
  write_file(from, source);
  Words step = {"-E", "-xc++", "-std=c++20", "-nostdinc", "-I" + headers};
  step.insert(step.end(), defines.begin(), defines.end());
  step.insert(step.end(), {"-include", headers + "/macros.h", from, "-o", to});
  run_step(tools.driver, step, folder);
  return read_file(to);
}

void build(const std::string& source,
           bool is_strict,
           const Toolchain& tools,
           const std::string& target) {
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  write_file(at + "/kernel.cpp", translate(preprocess(source, tools, {}, at)));
  Words compile = compile_flags(is_strict);
  compile.insert(compile.end(), {"-I" + header_folder(), "-include-pch",
                                 precompiled_prelude(is_strict, tools), "-c",
                                 at + "/kernel.cpp", "-o", at + "/kernel.o"});
  run_step(tools.driver, compile, at);
  run_step(tools.linker, {at + "/kernel.o", "-o", at + "/kernel.so"}, at);
  std::filesystem::rename(at + "/kernel.so", target);
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
  const Toolchain tools = find_toolchain();
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  const auto number = static_cast<int>((language_version >> 16) * 100 +
                                       (language_version & 0xffff) * 10);
  const std::string version = "-DMSL_LANGUAGE=" + std::to_string(number);
  write_file(at + "/kernel.cl",
             accept(preprocess(source, tools, {version}, at), number));
  // C++ for OpenCL is the one language of clang's that keeps all of Metal's
  // address spaces apart, the private one of threads among them.
  run_step(tools.front_end,
           {"-triple", "spir64-unknown-unknown", "-x", "clcpp",
            "-cl-std=clc++2021", "-cl-single-precision-constant",
            "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,"
            "-__opencl_c_device_enqueue,"
            "-__opencl_c_program_scope_global_variables",
            "-O2", "-disable-llvm-passes", "-emit-llvm", "-w", "-ferror-limit",
            "20", version, "-include", header_folder() + "/accept.h",
            at + "/kernel.cl", "-o", at + "/typed.ll"},
           at);
  run_step(tools.front_end,
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
  const Toolchain tools = find_toolchain();
  const std::string key =
      digest(source + '\0' + embedded_simulator() +
             joined(compile_flags(is_strict)) + identity(tools));
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
    if (!exists(target)) build(source, is_strict, tools, target);
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
