// csrc/torch/trace/launch_log.h: the logs that users ask for by environment
// variables (README, "Environment variables").
#pragma once

#include <cstdint>
#include <string>

#include "attention/plan.h"

namespace orchard::torch_ops {

// "[flashattn.mm] FWD call=1 ..." to the kernel log, if it was asked for.
void log_call(const char* direction,
              int64_t call,
              const attention::Problem& problem,
              const attention::Plan& plan);

// A warning for each kernel that had to take a smaller tile, once.
void warn_of_smaller_tiles(const attention::Plan& plan);

// One line for each buffer that the plan binds, and one with the number of
// copies that the bridge made for the call, if it was asked for.
void log_tensors(const char* direction,
                 int64_t call,
                 const attention::Plan& plan,
                 int64_t copies);

}  // namespace orchard::torch_ops
