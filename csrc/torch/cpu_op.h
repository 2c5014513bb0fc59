// csrc/torch/cpu_op.h: attention on CPU tensors, and what can be checked of
// them alone.
#pragma once

#include "torch/call.h"

namespace orchard::torch_ops {

struct CpuOutputs {
  at::Tensor out;
  at::Tensor lse;  // undefined unless it is asked for
};

// Forward as the keys of the CPU call it: with the check, in four dimensions.
CpuOutputs run_on_cpu(const Call& call);

// Of a checked call that is not packed.  `first_batch`: keep_mask's.
CpuOutputs attend_on_cpu(const Call& call, int64_t first_batch);

// The numbers in cu_seqlens, which a device would have to be waited for.
void check_packed_numbers(const char* operation, const Call& call);

}  // namespace orchard::torch_ops
