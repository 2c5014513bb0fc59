// csrc/device/sim/compile/constants.h: function constants, which a host gives
// values when it makes a pipeline.
#pragma once

#include "device/sim/compile/token_list.h"
#include "device/sim/sim.h"

namespace orchard::sim {

// Gives those that a text declares their values, by name or index.  One without
// a value becomes a symbol that nobody defines: used, it stops the loader.
// Throws Error(compile) if the text has none of a name.
void give_constants(TokenList& tokens, const Constants& values);

// What the loader says of a constant that is used and has no value; else "".
std::string missing_constant(const std::string& message);

// For keys of caches.
std::string text_of(const Constants& values);

}  // namespace orchard::sim
