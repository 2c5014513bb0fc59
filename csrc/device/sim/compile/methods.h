// csrc/device/sim/compile/methods.h: methods for objects of one address space.
#pragma once

#include "device/sim/compile/token_list.h"

namespace orchard::sim {

// In Metal the space of `this` stands behind a method, and one may be written
// for each space: here all objects share one.  Of methods that differ in
// nothing else the first stays.
void join_methods(TokenList& tokens);

}  // namespace orchard::sim
