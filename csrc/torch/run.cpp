// csrc/torch/run.cpp: see run.h.
#include "torch/run.h"

#include "torch/bridge.h"
#include "torch/trace/launch_log.h"
#include "torch/trace/recording.h"

namespace orchard::torch_ops {
namespace {

const char* log_name(Direction direction) {
  switch (direction) {
    case Direction::forward:
      return "FWD";
    case Direction::backward:
      return "BWD";
    case Direction::decode:
      break;
  }
  return "DEC";
}

}  // namespace

void run(device::Device& device,
         Direction direction,
         const at::Tensor& like,
         const attention::Problem& problem,
         const attention::Plan& plan,
         int64_t copies) {
  warn_of_smaller_tiles(plan);
  if (!submit_recorded(device, like, plan)) device.submit(plan.launches);
  const int64_t number = direction == Direction::backward ? next_backward_call()
                                                          : next_forward_call();
  log_call(log_name(direction), number, problem, plan);
  log_tensors(log_name(direction), number, plan, copies);
}

}  // namespace orchard::torch_ops
