// csrc/device/sim/compile/headers.h: Metal's headers as the simulator's
// compiler sees them.
#pragma once

#include <string>

#include "device/sim/compile/toolchain.h"
#include "device/sim/sim.h"

namespace orchard::sim {

// All that what is compiled depends on: the headers, and the translator.
const std::string& embedded_simulator();

// Folder with the headers and empty stand-ins for Metal's; made once.
std::string header_folder();

// One of them as the compiler keeps it after reading it, made once: reading
// takes longer than a kernel does.
std::string precompiled(const std::string& header,
                        const Words& command,
                        const Words& flags);

// Whether a text may make the preprocessor read, or look for, other files than
// Metal's headers; in doubt it may.
bool includes_files(std::string text);

// What a user's text is with our files in it, and where its own are looked for.
std::string source_of(const CompileRequest& request);
Words include_flags(const CompileRequest& request);

// Expands a kernel's macros and includes.
std::string preprocess(const std::string& source,
                       const Toolchain& tools,
                       const Words& flags,
                       const std::string& folder);

}  // namespace orchard::sim
