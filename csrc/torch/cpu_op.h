// csrc/torch/cpu_op.h: what can be checked of CPU tensors alone.
#pragma once

#include "torch/call.h"

namespace orchard::torch_ops {

// The numbers in cu_seqlens, which a device would have to be waited for.
void check_packed_numbers(const char* operation, const Call& call);

}  // namespace orchard::torch_ops
