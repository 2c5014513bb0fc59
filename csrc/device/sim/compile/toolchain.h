// csrc/device/sim/compile/toolchain.h: the clang that compiles kernels: where
// it is, how it is called, and what tells it apart from another.
#pragma once

#include <string>
#include <vector>

namespace orchard::sim {

using Words = std::vector<std::string>;

// Each is a command, to which the caller appends its files.
struct Toolchain {
  Words driver;     // clang's own, as in `clang++ …`
  Words front_end;  // the same clang's -cc1
  Words linker;     // makes a shared object
};

// Options::compiler, else ORCHARD_SIM_CXX, else what is on the path; throws
// Error(compile) when there is none.
Toolchain find_toolchain();

// Of the driver, for kernels: checked access by access, or as fast as may be.
// With ORCHARD_SIM_UNROLL=0 loops stay loops: a kernel is compiled in three
// fifths of the time, and runs for a tenth longer.
Words compile_flags(bool is_strict);

// Whether the command gives flags of its own, such as -I or -D.
bool has_flags(const Toolchain& tools);

// What decides, beside text and flags, which machine code comes out: the
// compiler's version, its command's flags and the processor.  Not where the
// compiler lies: every environment has one of its own, and all may share one
// cache.
std::string identity(const Toolchain& tools);

// Runs a command in a folder; throws Error(compile) with what it printed.
void run_step(Words command, const Words& more, const std::string& folder);

std::string joined(const Words& words);

}  // namespace orchard::sim
