// csrc/torch/verify/trial.h: small problems that need the same kernels as a
// user's, computed twice.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "attention/compiled.h"
#include "torch/run.h"

namespace orchard::torch_ops {

// What of a user's problem a trial repeats.
struct TrialSubject {
  Direction direction;
  const attention::Problem& problem;
  int64_t vec;  // elements of one load
  // Of a backward.
  bool has_dq = true, has_dkdv = true, has_dbias = true;
  std::optional<int64_t> scratch{};  // none: the user's
};

// How far an output is from what it should be, and may be.
struct Deviation {
  uint32_t slot = 0;
  double error = 0.0;    // the largest of any element; infinite for NaN
  double allowed = 1.0;  // of rounding
  bool is_wrong() const { return !(error <= allowed); }
  double ratio() const { return error / allowed; }
};

struct TrialResult {
  std::vector<const attention::Compiled*> kernels;  // in order
  std::vector<Deviation> outputs;

  const Deviation& worst() const;
};

// `like` is a tensor of the device.  With a folder the launches are recorded.
TrialResult try_kernels(const TrialSubject& subject,
                        const at::Tensor& like,
                        const std::string& folder);

}  // namespace orchard::torch_ops
