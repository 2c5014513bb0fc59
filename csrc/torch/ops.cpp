// csrc/torch/ops.cpp: the operators' schemas, which function serves which key,
// and the small operators that report.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "attention/kernels.h"
#include "attention/survey.h"
#include "device/longest.h"
#include "torch/attention_ops.h"
#include "torch/bridge.h"
#include "torch/call.h"
#include "torch/cpu_op.h"
#include "torch/installation.h"
#include "torch/trace/recording.h"
#include "torch/tuned.h"
#include "torch/verify/verify.h"
#ifdef ORCHARD_WITH_METAL
#include "torch/mps_stream.h"
#endif

namespace orchard::torch_ops {
namespace {

bool is_differentiated(const Call& call) {
  for (const at::Tensor& tensor : call.tensors()) {
    if (tensor.defined() && has_derivative(tensor)) return true;
  }
  return false;
}

// Why the operators would refuse a call, or "".  Only a real call can ask its
// device and look at the numbers in its tensors.
std::string reason_against(c10::ArrayRef<c10::IValue> arguments, bool is_real) {
  constexpr const char* kSupports = "supports";
  try {
    const Call call = Call::read(kSupports, arguments, 0);
    check_call(kSupports, call);
    if (!is_real || call.q.is_meta()) return "";
    if (call.q.is_cpu()) {
      check_packed_numbers(kSupports, call);
    } else {
      const attention::Problem problem = problem_of(kSupports, call);
      return known_wrong(device_of(kSupports, call.q), problem,
                         is_differentiated(call));
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void supports(const c10::OperatorHandle& /*op*/, torch::jit::Stack* stack) {
  const std::string reason =
      reason_against(torch::jit::last(*stack, Call::kArguments), true);
  torch::jit::drop(*stack, Call::kArguments);
  torch::jit::push(*stack, reason);
}

// What records operators takes tensors alone: one with as many elements as the
// reason has letters, so that a compiler knows its size while it traces.
void reason_size(const c10::OperatorHandle& /*op*/, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(*stack, Call::kArguments);
  const std::string reason = reason_against(arguments, false);
  const auto options = arguments[0].toTensor().options().dtype(at::kByte);
  torch::jit::drop(*stack, Call::kArguments);
  torch::jit::push(*stack,
                   at::empty({static_cast<int64_t>(reason.size())}, options));
}

std::tuple<std::string, int64_t, int64_t, std::string> describe_storage(
    const at::Tensor& tensor) {
  StorageInfo info = storage_info(tensor);
  return {info.mode, info.length_bytes, info.offset_bytes, info.device_name};
}

std::tuple<int64_t, int64_t, int64_t, int64_t> call_counts() {
  const Counts now = counts();
  return {now.forward, now.backward, now.copies, now.bytes_copied};
}

// Three lists side by side: attention/survey.h.
std::tuple<std::vector<std::string>, std::vector<int64_t>, std::vector<int64_t>>
thread_limits(const at::Tensor& like) {
  std::vector<std::string> kernels;
  std::vector<int64_t> with_attribute, without;
  for (const attention::ThreadLimit& limit :
       attention::thread_limits(device_of("thread_limits", like))) {
    kernels.push_back(limit.kernel);
    with_attribute.push_back(limit.with_attribute);
    without.push_back(limit.without);
  }
  return {kernels, with_attribute, without};
}

// Four lists side by side: TrialRow.
std::tuple<std::vector<std::string>,
           std::vector<std::string>,
           std::vector<double>,
           std::vector<double>>
trial_lists() {
  std::vector<std::string> kernels, outputs;
  std::vector<double> errors, allowed;
  for (const TrialRow& row : trials()) {
    kernels.push_back(row.kernel);
    outputs.push_back(row.output);
    errors.push_back(row.error);
    allowed.push_back(row.allowed);
  }
  return {kernels, outputs, errors, allowed};
}

std::tuple<int64_t, int64_t, double, double> cost_numbers() {
  const VerificationCosts costs = verification_costs();
  return {costs.looked, costs.tried, costs.looking_seconds,
          costs.trying_seconds};
}

// For each kernel, whatever its features: the tensors that it reads, and those
// that it writes, in words.
std::tuple<std::vector<std::string>,
           std::vector<std::string>,
           std::vector<std::string>>
kernel_tensors() {
  std::vector<std::string> kernels, read, written;
  for (const attention::KernelRow& kernel : attention::kernel_rows()) {
    const attention::Slots slots = kernel.all_slots();
    kernels.emplace_back(kernel.name);
    read.emplace_back();
    written.emplace_back();
    for (const attention::SlotRow& row : attention::slot_rows()) {
      const std::string word = std::string(row.name) + " ";
      if (slots.read.has(row.slot)) read.back() += word;
      if (slots.written.has(row.slot)) written.back() += word;
    }
  }
  return {kernels, read, written};
}

// Waits for MPS and reports what failed there; elsewhere submit() has waited.
void synchronize() {
#ifdef ORCHARD_WITH_METAL
  synchronize_mps();
#endif
}

template <auto* function>
torch::CppFunction boxed() {
  return torch::CppFunction::makeFromBoxedFunction<function>();
}

void implement_on_device(torch::Library& m) {
  m.impl("forward", boxed<&forward_device>());
  m.impl("backward", boxed<&backward_device>());
}

}  // namespace

TORCH_LIBRARY(orchard_ops, m) {
  m.def("forward(" ORCHARD_CALL_SCHEMA
        ") -> (Tensor out, Tensor lse, Tensor stats)");
  m.def(
      "backward(Tensor grad_out, Tensor? grad_lse, Tensor out, Tensor lse, "
      "Tensor stats, bool[5] output_mask, " ORCHARD_CALL_SCHEMA
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // These only report: one function for every key.
  m.def("supports(" ORCHARD_CALL_SCHEMA ") -> str", boxed<&supports>());
  m.def("reason_size(" ORCHARD_CALL_SCHEMA ") -> Tensor");
  m.def("describe_storage(Tensor tensor) -> (str, int, int, str)",
        describe_storage);
  m.def("thread_limits(Tensor like) -> (str[], int[], int[])", thread_limits);
  m.def("kernel_tensors() -> (str[], str[], str[])", kernel_tensors);
  m.def("call_counts() -> (int, int, int, int)", call_counts);
  m.def("reset_call_counts() -> ()", reset_counts);
  m.def("backward_scratch() -> int", backward_scratch);
  m.def("set_backward_scratch(int max_bytes) -> ()", set_backward_scratch);
  m.def("longest_launch() -> float", device::longest_seconds);
  m.def("set_longest_launch(float seconds) -> ()", device::set_longest_seconds);
  m.def("record_into(str folder) -> ()", record_into);
  m.def("trials() -> (str[], str[], float[], float[])", trial_lists);
  m.def("verification_costs() -> (int, int, float, float)", cost_numbers);
  m.def("set_versions(str versions) -> ()", set_versions);
  m.def("kept_choices(Tensor like) -> str", kept_choices);
  m.def("keep_choices(Tensor like, str choices) -> ()", keep_choices);
  m.def("try_choices(Tensor like, str? choices) -> ()", try_choices);
  m.def(
      "chosen_tile(Tensor like, str kernel, str dtype, int head_dim) -> int[]",
      chosen_tile);
  m.def("chosen_scratch(Tensor like, str dtype, int head_dim) -> int",
        chosen_scratch);
  m.def("gpu_seconds(Tensor like) -> float", gpu_seconds);
  m.def("gpu_class(Tensor like) -> str", gpu_class);
  m.def("synchronize() -> ()", synchronize);
}

TORCH_LIBRARY_IMPL(orchard_ops, CompositeImplicitAutograd, m) {
  m.impl("reason_size", boxed<&reason_size>());
}

// Made of differentiable operators: below autograd and at its key.
TORCH_LIBRARY_IMPL(orchard_ops, CPU, m) {
  m.impl("forward", boxed<&forward_cpu>());
}

TORCH_LIBRARY_IMPL(orchard_ops, AutogradCPU, m) {
  m.impl("forward", boxed<&forward_cpu>());
}

// Whatever else there is: other devices, and tensors without strides.
TORCH_LIBRARY_IMPL(orchard_ops, CompositeExplicitAutograd, m) {
  m.impl("forward", boxed<&forward_elsewhere>());
}

// Nested tensors, which no other name above stands for: to refuse them.
TORCH_LIBRARY_IMPL(orchard_ops, CompositeImplicitAutogradNestedTensor, m) {
  m.impl("forward", boxed<&forward_elsewhere>());
}

TORCH_LIBRARY_IMPL(orchard_ops, PrivateUse1, m) { implement_on_device(m); }

#ifdef ORCHARD_WITH_METAL
TORCH_LIBRARY_IMPL(orchard_ops, MPS, m) { implement_on_device(m); }
#endif

TORCH_LIBRARY_IMPL(orchard_ops, Meta, m) {
  m.impl("forward", boxed<&forward_meta>());
  m.impl("backward", boxed<&backward_meta>());
}

TORCH_LIBRARY_IMPL(orchard_ops, Autograd, m) {
  m.impl("forward", boxed<&forward_autograd>());
  m.impl("backward", boxed<&backward_autograd>());
}

}  // namespace orchard::torch_ops
