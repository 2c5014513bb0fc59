// csrc/torch/verify/verify.cpp: see verify.h.
#include "torch/verify/verify.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <vector>

#include "attention/compiled.h"
#include "device/user_cache.h"
#include "torch/attention_ops.h"
#include "torch/installation.h"
#include "torch/verify/trial.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::Compiled;
using attention::Feature;
using attention::Problem;
using device::Device;

// Of this thread's next forward.
enum class Ahead : uint8_t { nothing, backward, backward_with_dbias };
thread_local Ahead ahead = Ahead::nothing;

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
  switch (direction) {
    case Direction::forward:
    case Direction::backward:  // users call the one function
      return kForward;
    case Direction::decode:
      break;
  }
  return kDecode;
}

// Calls that have failed, and the kernels that nobody may launch any more.
struct Wrong {
  const Device* device;
  Direction direction;
  Problem problem;
  std::vector<const Compiled*> kernels;  // none: none could be made
  Error error;
};

std::mutex mutex;
std::atomic<bool> is_any_wrong{false};

std::vector<Wrong>& found_wrong() {
  static auto* const list = new std::vector<Wrong>;
  return *list;
}

void remember(Wrong wrong) {
  const std::lock_guard<std::mutex> lock(mutex);
  found_wrong().push_back(std::move(wrong));
  is_any_wrong = true;
}

// Of this process, for trials().
std::vector<TrialRow>& rows() {
  static auto* const list = new std::vector<TrialRow>;
  return *list;
}

void note_trial(const TrialResult& result) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Deviation& output : result.outputs) {
    for (const Compiled* kernel : result.kernels) {
      if (!kernel->slots.written.has(output.slot)) continue;
      rows().push_back({kernel->name, attention::slot_rows()[output.slot].name,
                        output.error, output.allowed});
    }
  }
}

bool contains(const std::vector<const Compiled*>& list, const Compiled* one) {
  return std::find(list.begin(), list.end(), one) != list.end();
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

// The kernels that a launch relies on, and what of them.
struct Claim {
  const Compiled* kernel;
  attention::Trust trust;

  bool is_known() const {
    return (kernel->trust->load(std::memory_order_relaxed) & trust) != 0;
  }
  void set_known() const {
    kernel->trust->fetch_or(trust, std::memory_order_relaxed);
  }
};

using Claims = std::vector<Claim>;

// The text of a claim's entry in the user's cache.
std::string entry_of(const Device& device, const Claim& claim, Ahead scope) {
  std::ostringstream text;
  text << "orchard-ops verified a kernel\n" << installation(device);
  if (claim.trust == attention::kItsBackward) {
    text << "backward of "
         << (scope == Ahead::backward_with_dbias ? "mask and " : "");
  }
  text << claim.kernel->name << "\n";
  return text.str();
}

void keep(const Device& device, const Claims& claims, Ahead scope) {
  static std::atomic<bool> is_warned{false};
  try {
    for (const Claim& claim : claims) {
      device::keep(entry_of(device, claim, scope));
    }
  } catch (const Error& error) {
    if (is_warned.exchange(true)) return;
    TORCH_WARN(
        "orchard_ops cannot keep that kernels were found right, so each "
        "process tries them again: ",
        error.message(),
        "; set ORCHARD_CACHE_DIR to a folder of your own, or "
        "ORCHARD_VERIFY=never");
  }
}

bool are_kept(const Device& device, const Claims& claims, Ahead scope) {
  return std::all_of(claims.begin(), claims.end(), [&](const Claim& claim) {
    return claim.is_known() || device::is_kept(entry_of(device, claim, scope));
  });
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

// The one that wrote the slot first, then those that it relies on.
std::string names(std::vector<const Compiled*> kernels, uint32_t slot) {
  std::stable_partition(
      kernels.begin(), kernels.end(),
      [&](const Compiled* kernel) { return kernel->slots.written.has(slot); });
  std::string text;
  for (const Compiled* kernel : kernels) {
    text += (text.empty() ? "" : " after ") + kernel->name;
  }
  return text;
}

[[noreturn]] void condemn(Device& device,
                          const TrialSubject& subject,
                          const Tensor& like,
                          const TrialResult& result) {
  std::vector<const Compiled*> suspects;
  for (const Compiled* kernel : result.kernels) {
    const bool is_right = Claim{kernel, attention::kOwnResults}.is_known();
    if (!is_right) suspects.push_back(kernel);
  }
  if (suspects.empty()) suspects = result.kernels;
  const Deviation worst = result.worst();
  std::ostringstream text;
  text << '[' << operation_of(subject.direction) << "] expected "
       << attention::slot_rows()[worst.slot].name << " of a trial of "
       << names(suspects, worst.slot) << " on " << device.name()
       << " to be what plain operators give on the CPU, to " << worst.allowed
       << ", got an error of " << worst.error
       << "; nothing is computed with it: use PyTorch's attention here, and "
          "please report this: "
       << record(subject, like);
  const Error error(ErrorKind::wrong_kernel, text.str());
  remember({&device, subject.direction, subject.problem, suspects, error});
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
  const auto attempt = [&](const TrialSubject& way) {
    const TrialResult result = try_kernels(way, like, "");
    note_trial(result);
    if (result.worst().is_wrong()) condemn(device, way, like, result);
    for (const Compiled* kernel : result.kernels) {
      tried.push_back(name_without_size(*kernel));
      right.push_back({kernel, attention::kOwnResults});
    }
  };
  attempt(subject);
  const bool is_all_tried =
      std::all_of(claims.begin(), claims.end(), [&](const Claim& claim) {
        return claim.trust == attention::kItsBackward ||
               std::find(tried.begin(), tried.end(),
                         name_without_size(*claim.kernel)) != tried.end();
      });
  if (is_all_tried) return right;
  // A float mask's gradient is not read off what was spilled in many chunks.
  TrialSubject recomputed = subject;
  recomputed.scratch = 0;
  attempt(recomputed);
  return right;
}

void throw_if_wrong(const Claims& claims) {
  if (!is_any_wrong) return;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Wrong& wrong : found_wrong()) {
    for (const Claim& claim : claims) {
      if (claim.trust == attention::kOwnResults &&
          contains(wrong.kernels, claim.kernel)) {
        throw wrong.error;
      }
    }
  }
}

void establish(Device& device,
               const TrialSubject& subject,
               const Tensor& like,
               const Claims& claims,
               Ahead scope) {
  throw_if_wrong(claims);
  const When when = when_from_environment(operation_of(subject.direction));
  Claims right = claims;
  const bool is_trusted =
      when == When::never ||
      (when == When::first && are_kept(device, claims, scope));
  if (!is_trusted) {
    right = try_all(device, subject, like, claims);
    keep(device, right, scope);
  }
  for (const Claim& claim : right) claim.set_known();
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
    claims.push_back({kernel, attention::kOwnResults});
  }
  establish(device, subject_of(direction, problem, plan), like, claims,
            Ahead::nothing);
}

// Also of calls that have not been launched: whoever differentiates them would
// meet the same kernels.
void throw_if_known_wrong(const Device& device,
                          Direction direction,
                          const Problem& problem) {
  if (!is_any_wrong) return;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Wrong& wrong : found_wrong()) {
    if (wrong.device == &device && wrong.direction == direction &&
        are_alike(wrong.problem, problem)) {
      throw wrong.error;
    }
  }
}

void verify_backward_ahead(Device& device,
                           const Tensor& like,
                           const Problem& problem,
                           const Compiled& forward) {
  throw_if_known_wrong(device, Direction::backward, problem);
  TrialSubject subject{Direction::backward, problem,
                       forward.specialisation.vec};
  subject.has_dbias = ahead == Ahead::backward_with_dbias;
  try {
    establish(device, subject, like, {{&forward, attention::kItsBackward}},
              ahead);
  } catch (const Error& error) {
    // The backward itself will say what else it meets, if it is ever run.
    if (error.kind() == ErrorKind::wrong_kernel) throw;
  }
}

}  // namespace

void verify(Device& device,
            Direction direction,
            const Tensor& like,
            const Problem& problem,
            const attention::Plan& plan) {
  const bool is_ahead =
      direction == Direction::forward && ahead != Ahead::nothing;
  const int needed = attention::kOwnResults |
                     (is_ahead ? attention::kItsBackward : attention::Trust{});
  int known = needed;
  for (const Compiled* kernel : plan.kernels) {
    known &= kernel->trust->load(std::memory_order_relaxed);
  }
  if (known == needed || !device.computes()) return;
  if ((known & attention::kOwnResults) == 0) {
    verify_plan(device, direction, like, problem, plan);
  }
  if (is_ahead && (known & attention::kItsBackward) == 0) {
    verify_backward_ahead(device, like, problem, *plan.kernels[0]);
  }
}

std::string known_wrong(Device& device,
                        const Problem& problem,
                        bool is_differentiated) {
  try {
    throw_if_known_wrong(device, Direction::forward, problem);
    if (is_differentiated) {
      throw_if_known_wrong(device, Direction::backward, problem);
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void remember_unusable(Device& device,
                       const Problem& problem,
                       const Error& error) {
  if (!known_wrong(device, problem, false).empty()) return;
  remember({&device, Direction::forward, problem, {}, error});
}

BackwardAhead::BackwardAhead(bool has_bias_gradient) {
  ahead = has_bias_gradient ? Ahead::backward_with_dbias : Ahead::backward;
}

BackwardAhead::~BackwardAhead() { ahead = Ahead::nothing; }

std::vector<TrialRow> trials() {
  const std::lock_guard<std::mutex> lock(mutex);
  return rows();
}

}  // namespace orchard::torch_ops
