// csrc/torch/verify/verify.h: kernels are tried before they are first used.
//
// The first launch of a kernel in a process looks into the user's cache: if the
// kernel has been found right with this GPU, system, PyTorch and orchard-ops,
// that is all.  Else a small problem that needs the same kernels is computed
// with them and with plain operators in float64 on the CPU (trial.h).
// docs/verification.md tells users about it.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "attention/plan.h"
#include "torch/run.h"

namespace orchard::torch_ops {

// Returns if the plan's kernels may be trusted, after a trial if they were
// never tried.  Error(wrong_kernel) names the kernel, the largest error and
// where its recording lies; Error(invalid_problem) a bad ORCHARD_VERIFY.
void verify(device::Device& device,
            Direction direction,
            const at::Tensor& like,
            const attention::Problem& problem,
            const attention::Plan& plan);

// Why calls like this one would fail since their kernels were found wrong in
// this process, or "".
std::string known_wrong(device::Device& device,
                        const attention::Problem& problem,
                        bool is_differentiated);

// For known_wrong(): the device refused to make kernels for such a call, as one
// does that lays matrices out in another way.
void remember_unusable(device::Device& device,
                       const attention::Problem& problem,
                       const Error& error);

// While one lives, this thread's forwards will be differentiated: the kernels
// of their backward are verified before the forward is launched, so that no
// step of training fails halfway.
class BackwardAhead {
 public:
  explicit BackwardAhead(bool has_mask_gradient);
  ~BackwardAhead();
  BackwardAhead(const BackwardAhead&) = delete;
  BackwardAhead& operator=(const BackwardAhead&) = delete;
};

// An output of a trial of this process: which kernel wrote it, how far it was
// from what it should be, and may be.
struct TrialRow {
  std::string kernel, output;
  double error, allowed;
};
std::vector<TrialRow> trials();

// What verification has cost this process, in seconds of its processor time:
// to look for entries, and to try kernels.
struct VerificationCosts {
  int64_t looked = 0, tried = 0;  // times
  double looking_seconds = 0.0, trying_seconds = 0.0;
};
VerificationCosts verification_costs();

}  // namespace orchard::torch_ops
