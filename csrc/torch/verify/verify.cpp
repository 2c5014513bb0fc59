// csrc/torch/verify/verify.cpp: see verify.h.
#include "torch/verify/verify.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <sstream>

#include "attention/compiled.h"
#include "device/user_cache.h"
#include "torch/attention_ops.h"
#include "torch/verify/claims.h"
#include "torch/verify/trial.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Compiled;
using attention::Feature;
using attention::Problem;
using attention::Trust;
using device::Device;

// What this thread's forwards need to be known besides their own results.
thread_local Trust ahead = Trust::none;

enum class When : uint8_t { first, always, never };

When when_from_environment(const char* operation) {
  const char* text = std::getenv("ORCHARD_VERIFY");
  const std::string value = text == nullptr ? "" : text;
  if (value.empty() || value == "first") return When::first;
  if (value == "always") return When::always;
  if (value == "never") return When::never;
  attention::refuse(operation,
                    "expected ORCHARD_VERIFY to be first, always or never, "
                    "got '",
                    value, "'; unset it for first");
}

const char* operation_of(Direction direction) {
  // Users call one function for a forward and its backward.
  return direction == Direction::decode ? kDecode : kForward;
}

// A call whose kernels failed, or could not be made.
struct Wrong {
  const Device* device;
  Direction direction;
  Problem problem;
  Error error;
};

// Of this process, under the mutex.
struct Found {
  std::vector<Wrong> wrong;
  std::vector<TrialRow> rows;
  VerificationCosts costs;
};

std::mutex verified_mutex;
std::atomic<bool> is_any_wrong{false};

Found& found() {
  static auto* const all = new Found;
  return *all;
}

void remember(Wrong wrong) {
  const std::lock_guard<std::mutex> lock(verified_mutex);
  found().wrong.push_back(std::move(wrong));
  is_any_wrong = true;
}

void note_trial(const TrialResult& result) {
  const std::lock_guard<std::mutex> lock(verified_mutex);
  for (const Deviation& output : result.outputs) {
    for (const Compiled* kernel : result.kernels) {
      if (!kernel->slots.written.has(output.slot)) continue;
      found().rows.push_back({kernel->name,
                              attention::slot_rows()[output.slot].name,
                              output.error, output.allowed});
    }
  }
}

// Whether the same texts serve both, but for how loads are aligned.
bool are_alike(const Problem& a, const Problem& b) {
  for (const attention::FeatureRow& row : attention::feature_rows()) {
    if (row.is_of == nullptr || row.feature == Feature::grad_lse) continue;
    if (row.is_of(a) != row.is_of(b)) return false;
  }
  return a.dtype == b.dtype && a.head_dim == b.head_dim &&
         a.head_dim_v == b.head_dim_v && a.mask == b.mask &&
         (a.mask != attention::MaskKind::bias || a.mask_dtype == b.mask_dtype);
}

void throw_if_wrong(const Device& device,
                    Direction direction,
                    const Problem& problem) {
  if (!is_any_wrong) return;
  const std::lock_guard<std::mutex> lock(verified_mutex);
  for (const Wrong& wrong : found().wrong) {
    if (wrong.device == &device && wrong.direction == direction &&
        are_alike(wrong.problem, problem)) {
      throw wrong.error;
    }
  }
}

// What no small problem has: wide index arithmetic, and sums that go on in the
// next launch.  Such a kernel is its text without them and a few lines more.
std::string name_without_size(const Compiled& kernel) {
  attention::Specialisation s = kernel.specialisation;
  for (const Feature feature :
       {Feature::wide, Feature::summed, Feature::carried}) {
    s.features.all.remove(feature);
  }
  return s.name();
}

// Where a trial's launches lie, or why they lie nowhere.
std::string record(const TrialSubject& subject, const Tensor& like) {
  try {
    const std::string folder = device::make_kept_folder("wrong-kernel");
    try_kernels(subject, like, folder);
    return "attach the recording " + folder + " (docs/recording.md)";
  } catch (const std::exception& error) {
    return std::string("no recording could be made (") + error.what() + ")";
  }
}

// The kernel that wrote the slot first, then those that it relies on and that
// nothing has shown to be right.
std::string suspects(std::vector<const Compiled*> kernels, uint32_t slot) {
  std::stable_partition(
      kernels.begin(), kernels.end(),
      [&](const Compiled* kernel) { return kernel->slots.written.has(slot); });
  std::string text;
  for (const Compiled* kernel : kernels) {
    const bool is_cleared = kernel->is_trusted(Trust::own_results) &&
                            !kernel->slots.written.has(slot);
    if (is_cleared) continue;
    text += (text.empty() ? "" : " after ") + kernel->name;
  }
  return text;
}

[[noreturn]] void condemn(Device& device,
                          const TrialSubject& subject,
                          const Tensor& like,
                          const TrialResult& result) {
  const Deviation worst = result.worst();
  std::ostringstream text;
  text << '[' << operation_of(subject.direction) << "] expected "
       << attention::slot_rows()[worst.slot].name << " of a trial of "
       << suspects(result.kernels, worst.slot) << " on " << device.name()
       << " to be what plain operators give on the CPU, to " << worst.allowed
       << ", got an error of " << worst.error
       << "; nothing is computed with it: use PyTorch's attention here, and "
          "please report this: "
       << record(subject, like);
  const Error error(ErrorKind::wrong_kernel, text.str());
  remember({&device, subject.direction, subject.problem, error});
  throw error;
}

// Tries until each claimed kernel has been launched, each way at most once;
// returns the claims, and all else that was found right.
Claims try_all(Device& device,
               const TrialSubject& subject,
               const Tensor& like,
               const Claims& claims) {
  Claims right = claims;
  std::vector<std::string> tried;
  const auto is_tried = [&](const Claim& claim) {
    return claim.trust != Trust::own_results ||
           std::find(tried.begin(), tried.end(),
                     name_without_size(*claim.kernel)) != tried.end();
  };
  TrialSubject recomputing = subject;
  recomputing.scratch = 0;
  // A float mask's gradient is not read off what was spilled in many chunks.
  for (const TrialSubject& way : {subject, recomputing}) {
    const TrialResult result = try_kernels(way, like, "");
    note_trial(result);
    if (result.worst().is_wrong()) condemn(device, way, like, result);
    for (const Compiled* kernel : result.kernels) {
      tried.push_back(name_without_size(*kernel));
      const Claim own{kernel, Trust::own_results};
      if (std::find(right.begin(), right.end(), own) == right.end()) {
        right.push_back(own);
      }
    }
    if (std::all_of(claims.begin(), claims.end(), is_tried)) break;
  }
  return right;
}

double processor_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

void establish(Device& device,
               const TrialSubject& subject,
               const Tensor& like,
               const Claims& claims) {
  throw_if_wrong(device, subject.direction, subject.problem);
  const When when = when_from_environment(operation_of(subject.direction));
  const double begin = processor_seconds();
  Claims right = claims;
  const bool is_trusted =
      when == When::never || (when == When::first && are_kept(device, claims));
  const double middle = processor_seconds();
  if (!is_trusted) {
    right = try_all(device, subject, like, claims);
    keep(device, right);
  }
  for (const Claim& claim : right) claim.kernel->add_trust(claim.trust);
  const std::lock_guard<std::mutex> lock(verified_mutex);
  VerificationCosts& costs = found().costs;
  costs.looked += when == When::first ? 1 : 0;
  costs.tried += is_trusted ? 0 : 1;
  costs.looking_seconds += middle - begin;
  costs.trying_seconds += processor_seconds() - middle;
}

TrialSubject subject_of(Direction direction,
                        const Problem& problem,
                        const attention::Plan& plan) {
  TrialSubject subject{direction, problem, plan.kernels[0]->specialisation.vec};
  if (direction != Direction::backward) return subject;
  const auto writes = [&](uint32_t slot) {
    return std::any_of(plan.kernels.begin(), plan.kernels.end(),
                       [&](const Compiled* kernel) {
                         return kernel->slots.written.has(slot);
                       });
  };
  subject.has_dq = writes(SLOT_DQ);
  subject.has_dkdv = writes(SLOT_DK);
  subject.has_dbias = writes(SLOT_DBIAS);
  constexpr int64_t kAllOfTrial = int64_t{1} << 30;
  subject.scratch = writes(SLOT_SPILL) ? kAllOfTrial : 0;
  return subject;
}

void verify_plan(Device& device,
                 Direction direction,
                 const Tensor& like,
                 const Problem& problem,
                 const attention::Plan& plan) {
  Claims claims;
  for (const Compiled* kernel : plan.kernels) {
    claims.push_back({kernel, Trust::own_results});
  }
  establish(device, subject_of(direction, problem, plan), like, claims);
}

void verify_backward_ahead(Device& device,
                           const Tensor& like,
                           const Problem& problem,
                           const Compiled& forward) {
  TrialSubject subject{Direction::backward, problem,
                       forward.specialisation.vec};
  subject.has_dbias = ahead == Trust::its_mask_backward;
  try {
    establish(device, subject, like, {{&forward, ahead}});
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::wrong_kernel) throw;
    // The backward itself will say what else it meets, if it is ever run: its
    // kernels are tried then.
    forward.add_trust(ahead);
  }
}

bool are_trusted(const attention::Plan& plan, Trust trust) {
  return std::all_of(
      plan.kernels.begin(), plan.kernels.end(),
      [&](const Compiled* kernel) { return kernel->is_trusted(trust); });
}

}  // namespace

void verify(Device& device,
            Direction direction,
            const Tensor& like,
            const Problem& problem,
            const attention::Plan& plan) {
  const bool is_right = are_trusted(plan, Trust::own_results);
  const bool is_right_ahead =
      direction != Direction::forward || are_trusted(plan, ahead);
  if ((is_right && is_right_ahead) || !device.computes()) return;
  if (!is_right) verify_plan(device, direction, like, problem, plan);
  if (!is_right_ahead) {
    verify_backward_ahead(device, like, problem, *plan.kernels[0]);
  }
}

std::string known_wrong(Device& device,
                        const Problem& problem,
                        bool is_differentiated) {
  try {
    throw_if_wrong(device, Direction::forward, problem);
    if (is_differentiated) throw_if_wrong(device, Direction::backward, problem);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void remember_unusable(Device& device,
                       const Problem& problem,
                       const Error& error) {
  if (!known_wrong(device, problem, false).empty()) return;
  remember({&device, Direction::forward, problem, error});
}

BackwardAhead::BackwardAhead(bool has_mask_gradient) {
  ahead = has_mask_gradient ? Trust::its_mask_backward : Trust::its_backward;
}

BackwardAhead::~BackwardAhead() { ahead = Trust::none; }

std::vector<TrialRow> trials() {
  const std::lock_guard<std::mutex> lock(verified_mutex);
  return found().rows;
}

VerificationCosts verification_costs() {
  const std::lock_guard<std::mutex> lock(verified_mutex);
  return found().costs;
}

}  // namespace orchard::torch_ops
