// csrc/device/sim/compile/operands.h: conditional expressions.
#pragma once

#include "device/sim/compile/token_list.h"

namespace orchard::sim {

// The two results of ?: may lie in different address spaces, which C++ does not
// let objects of classes do (bfloat, vectors, what a text declares): each is
// handed through metal::msl_detail::operand.
void wrap_operands(TokenList& tokens);

}  // namespace orchard::sim
