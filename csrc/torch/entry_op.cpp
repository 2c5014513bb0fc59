// csrc/torch/entry_op.cpp: the short way into forward.
//
// To bring all of forward's arguments from Python into the dispatcher, and its
// three results back, takes longer than forward's own work on the host, and
// most calls need but the first eight or eleven, and one.  Where nobody but
// autograd stands between the caller and the device, they are computed from
// here by the functions that serve forward's keys; elsewhere forward is called,
// so that whoever watches operators, transforms or compiles meets that alone.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "torch/attention_ops.h"
#include "torch/call.h"
#include "torch/cpu_op.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using torch::jit::Stack;

// Whether these keys are a dense tensor's of a device and autograd's alone.
bool is_direct(DispatchKeySet keys) {
  constexpr DispatchKeySet usual(
      {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::MPS,
       DispatchKey::AutogradMPS, DispatchKey::PrivateUse1,
       DispatchKey::AutogradPrivateUse1, DispatchKey::ADInplaceOrView});
  return (keys | usual) == usual;
}

Outputs run_below(const Call& call) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return run_on_device(call);
}

Tensor out_of(const Call& call) {
  if (call.q.is_cpu()) return run_on_cpu(call).out;
  for (const Tensor* tensor : {&call.q, &call.k, &call.v, &call.mask}) {
    if (tensor->defined() && has_derivative(*tensor)) {
      return run_recorded(call, &run_below).out;
    }
  }
  return run_below(call).out;
}

template <size_t kGiven>
void attention(const c10::OperatorHandle& /*op*/,
               DispatchKeySet keys,
               Stack* stack) {
  if (is_direct(keys)) {
    const Call call = Call::take(kForward, *stack, kGiven);
    torch::jit::push(*stack, with_dims_of(call, out_of(call)));
    return;
  }
  const auto rest = Call::defaults(kGiven);
  stack->insert(stack->end(), rest.begin(), rest.end());
  forward_op().callBoxed(stack);
  torch::jit::drop(*stack, 2);  // lse and stats
}

// For every key, those of transforms too: whoever needs another meets forward.
TORCH_LIBRARY_FRAGMENT(orchard_ops, m) {
  m.def("attention(" ORCHARD_SHORT_SCHEMA ") -> Tensor",
        torch::CppFunction::makeFromBoxedFunction<
            &attention<Call::kShortArguments>>());
  m.def("attention.window(" ORCHARD_WINDOW_SCHEMA ") -> Tensor",
        torch::CppFunction::makeFromBoxedFunction<
            &attention<Call::kWindowArguments>>());
}

}  // namespace
}  // namespace orchard::torch_ops
