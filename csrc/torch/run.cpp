// csrc/torch/run.cpp: see run.h.
#include "torch/run.h"

#include <utility>

#include "torch/bridge.h"
#include "torch/trace/launch_log.h"
#include "torch/trace/recording.h"
#include "torch/verify/verify.h"

namespace orchard::torch_ops {
namespace {

thread_local Aside* aside = nullptr;

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
  if (aside != nullptr) {
    aside->launch(device, like, plan);
    return;
  }
  verify(device, direction, like, problem, plan);
  warn_of_smaller_tiles(plan);
  if (!submit_recorded(device, like, plan)) device.submit(plan.launches);
  const int64_t number = direction == Direction::backward ? next_backward_call()
                                                          : next_forward_call();
  log_call(log_name(direction), number, problem, plan);
  log_tensors(log_name(direction), number, plan, copies);
}

Aside::Aside(std::optional<int64_t> scratch, std::string folder)
    : scratch_(scratch), folder_(std::move(folder)) {
  aside = this;
}

Aside::~Aside() { aside = nullptr; }

Aside* Aside::current() { return aside; }

int64_t Aside::scratch_or(int64_t others) {
  return aside == nullptr ? others : aside->scratch_.value_or(others);
}

void Aside::launch(device::Device& device,
                   const at::Tensor& like,
                   const attention::Plan& plan) {
  kernels_.insert(kernels_.end(), plan.kernels.begin(), plan.kernels.end());
  if (folder_.empty()) {
    device.submit_uncounted(plan.launches);
  } else {
    record_plan(folder_, recorded_, device, like, plan);
  }
}

}  // namespace orchard::torch_ops
