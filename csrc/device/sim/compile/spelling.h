// csrc/device/sim/compile/spelling.h: parts of Metal of a word or two.
#pragma once

#include "device/sim/compile/token_list.h"

namespace orchard::sim {

// Literals, initializers of vectors, unions, coherent memory: in C++.
void rewrite_spelling(TokenList& tokens);

}  // namespace orchard::sim
