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
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

#include "device/sim/compile/constants.h"
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
  write_file(
      at + "/kernel.cpp",
      translate(source.is_preprocessed ? source.text
                                       : preprocess(source.text, tools, {}, at),
                source.wanted));
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

// Finds where the object that holds `kernel` lies in memory.
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
        const auto* at = reinterpret_cast<const std::byte*>(b.kernel);
        if (at < base || at >= end) return 0;
        b.begin = base;
        b.end = end;
        return 1;
      },
      &binary);
#else
  Dl_info info{};
  if (dladdr(binary.kernel, &info) == 0) return;
  binary.begin = static_cast<const std::byte*>(info.dli_fbase);
  binary.end = binary.begin + std::filesystem::file_size(binary.path);
#endif
}

using Future = std::shared_future<std::shared_ptr<const Binary>>;

struct Compilations {
  std::mutex mutex;
  std::map<std::string, Future> by_key;
};

// Never destroyed: other threads may compile while the process ends.
Compilations& compilations() {
  static auto* const instance = new Compilations;
  return *instance;
}

std::shared_ptr<const Binary> load(const std::string& path) {
  // Kernels may call libm (roundf): make sure that it is there.
  static void* const math = dlopen("libm.so.6", RTLD_NOW | RTLD_GLOBAL);
  (void)math;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* problem = library ? nullptr : dlerror();
  auto binary = std::make_shared<Binary>();
  if (library != nullptr) {
    binary->kernel =
        static_cast<const abi::Kernel*>(dlsym(library, "orchard_kernel"));
  }
  if (binary->kernel == nullptr) {
    const std::string why = problem ? problem : "no kernel";
    const std::string constant = missing_constant(why);
    throw Error(ErrorKind::compile,
                constant.empty()
                    ? "simulator: cannot load " + path + ": " + why
                    : "simulator: expected a value of the function constant " +
                          constant +
                          ", which the kernel uses, got none; pass it in "
                          "constants");
  }
  binary->path = path;
  locate(*binary);
  return binary;
}

}  // namespace

std::string Binary::line_of(const void* code) const {
  if (!holds(code)) return {};
  const auto* at = static_cast<const std::byte*>(code);
  std::call_once(once_, [&] { lines_ = std::make_unique<LineTable>(path); });
  // A return address may already belong to the next line.
  return lines_->find(static_cast<uint64_t>(at - begin) - 1);
}

Source read_source(std::string text, std::string entry) {
  const Toolchain tools = find_toolchain();
  const bool is_whole = has_flags(tools);
  return {is_whole ? whole_text(text, tools, {}) : std::move(text),
          {std::move(entry), {}, /*is_ours=*/true},
          is_whole};
}

Source read_source(const CompileRequest& request) {
  const Toolchain tools = find_toolchain();
  std::string text = source_of(request);
  const bool is_whole = includes_files(text) || has_flags(tools);
  return {is_whole ? whole_text(text, tools, include_flags(request))
                   : std::move(text),
          {request.entry, request.constants},
          is_whole};
}

std::vector<std::string> kernel_names(const CompileRequest& request) {
  return kernel_names(
      whole_text(source_of(request), find_toolchain(), include_flags(request)));
}

void hold_compilations() { compilations().mutex.lock(); }

void go_on_compiling(bool is_child) {
  Compilations& all = compilations();
  if (is_child) {
    std::erase_if(all.by_key, [](const auto& entry) {
      return entry.second.wait_for(std::chrono::seconds(0)) !=
             std::future_status::ready;
    });
  }
  all.mutex.unlock();
}

std::shared_ptr<const Binary> compile_text(const Source& source,
                                           bool is_strict) {
  Compilations& all = compilations();
  const Toolchain tools = find_toolchain();
  const std::string key =
      digest(source.text + '\0' + (source.is_preprocessed ? "whole" : "") +
             source.wanted.entry + '\0' + text_of(source.wanted.constants) +
             (source.wanted.is_ours ? "" : "foreign") + embedded_simulator() +
             joined(compile_flags(is_strict)) + identity(tools));
  const std::string target = cache_folder() + "/" + key + ".so";
  std::promise<std::shared_ptr<const Binary>> promise;
  {
    std::unique_lock lock(all.mutex);
    if (const auto found = all.by_key.find(key); found != all.by_key.end()) {
      const Future future = found->second;
      lock.unlock();
      return future.get();
    }
    all.by_key.emplace(key, promise.get_future().share());
  }
  try {
    if (!is_whole(target)) build(source, is_strict, tools, target);
    promise.set_value(load(target));
  } catch (...) {
    promise.set_exception(std::current_exception());
  }
  const std::lock_guard lock(all.mutex);
  const Future future = all.by_key.at(key);
  // A failure is told once to all who wait, then may be tried again.
  try {
    return future.get();
  } catch (...) {
    all.by_key.erase(key);
    throw;
  }
}

}  // namespace orchard::sim
