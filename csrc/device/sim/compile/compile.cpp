// csrc/device/sim/compile/compile.cpp: runs the compiler and keeps its results;
// see compile.h.
#include "device/sim/compile/compile.h"

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

#include "device/sim/compile/files.h"
#include "device/sim/compile/headers.h"
#include "device/sim/sim.h"
#include "device/sim/compile/toolchain.h"
#include "device/sim/compile/translate.h"

namespace orchard::sim {
namespace {

// Behind a kept binary, of all that comes before it.
constexpr size_t kDigestSize = 32;

std::string precompiled_prelude(bool is_strict, const Toolchain& tools) {
  Words flags = compile_flags(is_strict);
  flags.insert(flags.end(),
               {"-x", "c++-header", "-Xclang", "-fno-pch-timestamp"});
  return precompiled("prelude.h", tools.driver, flags);
}

// Preprocessed, the same each time for the same files.
std::string whole_text(const std::string& text,
                       const Toolchain& tools,
                       const Words& flags) {
  const ScratchFolder scratch;
  std::string whole = preprocess(text, tools, flags, scratch.path());
  // Its markers name a folder that is another one each time.
  const std::string folder = scratch.path() + "/";
  for (size_t at = 0; (at = whole.find(folder, at)) != whole.npos;) {
    whole.erase(at, folder.size());
  }
  return whole;
}

void compile_step(bool is_strict,
                  const Toolchain& tools,
                  const std::string& header,
                  const std::string& at) {
  Words compile = compile_flags(is_strict);
  compile.insert(compile.end(),
                 {"-I" + header_folder(), "-include-pch", header, "-c",
                  at + "/kernel.cpp", "-o", at + "/kernel.o"});
  run_step(tools.driver, compile, at);
}

void build(const Source& source,
           bool is_strict,
           const Toolchain& tools,
           const std::string& target) {
  const ScratchFolder scratch;
  const std::string& at = scratch.path();
  write_file(at + "/kernel.cpp",
             translate(source.is_preprocessed
                           ? source.text
                           : preprocess(source.text, tools, {}, at)));
  const std::string header = precompiled_prelude(is_strict, tools);
  try {
    compile_step(is_strict, tools, header, at);
  } catch (const Error&) {
    // It may be the kept header that is at fault: one that was cut short is
    // complained of in many ways.
    const std::string kept = exists(header) ? read_file(header) : "";
    unlink(header.c_str());
    const std::string fresh = precompiled_prelude(is_strict, tools);
    if (read_file(fresh) == kept) throw;
    compile_step(is_strict, tools, fresh, at);
  }
  run_step(tools.linker, {at + "/kernel.o", "-o", at + "/kernel.so"}, at);
  const std::string binary = read_file(at + "/kernel.so");
  write_file(at + "/kernel.so", binary + digest(binary));
  put_in_place(at + "/kernel.so", target);
}

// Whether a binary is this user's own and as it was built.  The loader looks at
// neither: what was cut short ends the process, or is other code.
bool is_whole(const std::string& path) {
  if (!is_own_file(path)) return false;
  const std::string found = read_file(path);
  const size_t size = found.size() - std::min(found.size(), kDigestSize);
  return digest(std::string_view(found).substr(0, size)) ==
         std::string_view(found).substr(size);
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
  if (!holds(code)) return {};
  const auto* at = static_cast<const std::byte*>(code);
  std::call_once(once_, [&] { lines_ = std::make_unique<LineTable>(path); });
  // A return address may already belong to the next line.
  return lines_->find(static_cast<uint64_t>(at - begin) - 1);
}

Source read_source(std::string text) {
  const Toolchain tools = find_toolchain();
  if (!has_flags(tools)) return {std::move(text), false};
  return {whole_text(text, tools, {}), true};
}

Source read_source(const CompileRequest& request) {
  if (!request.constants.empty()) {
    throw Error(ErrorKind::unsupported,
                "simulator: expected no values of function constants, which "
                "it does not take yet; make them macros");
  }
  const Toolchain tools = find_toolchain();
  std::string text = source_of(request);
  if (!includes_files(text) && !has_flags(tools)) {
    return {std::move(text), false};
  }
  return {whole_text(text, tools, include_flags(request)), true};
}

std::vector<std::string> kernel_names(const CompileRequest& request) {
  const std::string text =
      whole_text(source_of(request), find_toolchain(), include_flags(request));
  std::vector<std::string> names;
  for (const KernelText& kernel : translate_text(text).kernels) {
    if (!kernel.is_template) names.push_back(kernel.name);
  }
  return names;
}

std::shared_ptr<const Binary> compile_text(const Source& source,
                                           bool is_strict) {
  using Future = std::shared_future<std::shared_ptr<const Binary>>;
  static std::mutex mutex;
  static auto* const done = new std::map<std::string, Future>;
  const Toolchain tools = find_toolchain();
  const std::string key =
      digest(source.text + '\0' + (source.is_preprocessed ? "whole" : "") +
             embedded_simulator() + joined(compile_flags(is_strict)) +
             identity(tools));
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
    if (!is_whole(target)) build(source, is_strict, tools, target);
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
