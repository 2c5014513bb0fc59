// csrc/torch/run.h: the one way from a plan to the device: launched, counted,
// logged, and recorded if somebody records.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "attention/plan.h"

namespace orchard::torch_ops {

enum class Direction : uint8_t { forward, backward, decode };

// `like` is a tensor of the device; `copies` were made for the call.
void run(device::Device& device,
         Direction direction,
         const at::Tensor& like,
         const attention::Problem& problem,
         const attention::Plan& plan,
         int64_t copies);

// While one lives, what this thread runs is nobody's call: it is launched, and
// neither counted nor logged, nor verified, nor in the user's recording.
class Aside {
 public:
  // `scratch`: of a backward, instead of the user's (attention/spill.h);
  // `folder`: an existing one to record into, or none.
  Aside(std::optional<int64_t> scratch, std::string folder);
  ~Aside();
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

  static Aside* current();
  static int64_t scratch_or(int64_t others);

  void launch(device::Device& device,
              const at::Tensor& like,
              const attention::Plan& plan);
  // What was launched, in order.
  const std::vector<const attention::Compiled*>& kernels() const {
    return kernels_;
  }

 private:
  std::optional<int64_t> scratch_;
  std::string folder_;
  int64_t recorded_ = 0;
  std::vector<const attention::Compiled*> kernels_;
};

}  // namespace orchard::torch_ops
