// csrc/device/sim/compile/compile.h: kernel text to a loaded shared object,
// through a cache in the user's folder.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "device/sim/compile/lines.h"
#include "device/sim/compile/translate.h"
#include "device/sim/msl/abi.h"
#include "device/sim/sim.h"

namespace orchard::sim {

// A compiled kernel; stays loaded for the life of the process.
struct Binary {
  std::string path;
  const abi::Kernel* kernel = nullptr;
  const std::byte* begin = nullptr;  // of code and constants in memory
  const std::byte* end = nullptr;

  bool holds(const void* code) const {
    const auto* at = static_cast<const std::byte*>(code);
    return at >= begin && at < end;
  }
  // "file:line" of a code address, or "".
  std::string line_of(const void* code) const;

 private:
  mutable std::once_flag once_;
  mutable std::unique_ptr<const LineTable> lines_;
};

// All that one kernel stands for.
struct Source {
  std::string text;
  Wanted wanted;
  bool is_preprocessed = false;
};

// A text of this library, which reads no other file.  Throws Error(compile).
Source read_source(std::string text, std::string entry);
// A user's text that does is preprocessed, so that the result depends on
// nothing else: not on what those files hold at a later time.
Source read_source(const CompileRequest& request);

// Compiles or takes from the cache; throws Error(compile) with the compiler's
// message.  Safe under threads and processes.
std::shared_ptr<const Binary> compile_text(const Source& source,
                                           bool is_strict);

// Around a fork: nobody starts or ends a compilation in between.  A child
// forgets those that other threads were at, which it does not have.
void hold_compilations();
void go_on_compiling(bool is_child);

}  // namespace orchard::sim
