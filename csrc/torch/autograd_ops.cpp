// csrc/torch/autograd_ops.cpp: the operators' gradients: forward saves what
// backward needs; gradients of gradients are refused in clear words.
#include <ATen/ATen.h>
#include <ATen/FuncTorchTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <type_traits>

#include "torch/attention_ops.h"
#include "torch/call.h"
#include "torch/verify/verify.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using torch::jit::Stack;
// at::TensorList, because a custom function tracks no vector's tensors.

using OutputMask = std::array<bool, kGradients>;

const c10::OperatorHandle& backward_op() {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("orchard_ops::backward",
                                                     "");
  return op;
}

// The results of an operator below the Autograd key.
Stack run_below(const c10::OperatorHandle& op, Stack stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  op.callBoxed(&stack);
  return stack;
}

c10::List<bool> to_list(const OutputMask& is_wanted) {
  c10::List<bool> list;
  for (const bool is_set : is_wanted) list.push_back(is_set);
  return list;
}

// `tensors`: those before the arguments of the call; some may be undefined.
Stack run_backward(const variable_list& tensors,
                   const Call& call,
                   const OutputMask& is_wanted) {
  Stack stack;
  for (const Tensor& tensor : tensors) stack.push_back(or_none(tensor));
  stack.emplace_back(to_list(is_wanted));
  call.push(stack);
  return run_below(backward_op(), std::move(stack));
}

Tensor tensor_or_none(const c10::IValue& value) {
  return value.isNone() ? Tensor() : value.toTensor();
}

// Carries the first gradients and refuses second ones.  Only the tensors of the
// list `inputs` are tracked, which holds all that are defined.
struct BackwardFunction : Function<BackwardFunction> {
  static variable_list forward(AutogradContext* /*context*/,
                               at::TensorList /*inputs*/,
                               const variable_list& tensors,
                               const Call& call,
                               const OutputMask& is_wanted) {
    variable_list wanted;  // a custom function cannot return undefined ones
    for (const c10::IValue& value : run_backward(tensors, call, is_wanted)) {
      const Tensor gradient = tensor_or_none(value);
      if (gradient.defined()) wanted.push_back(gradient);
    }
    return wanted;
  }

  static variable_list backward(AutogradContext* /*context*/,
                                const variable_list& /*grads*/) {
    refuse_second_derivatives();
  }
};

// The inputs that can have gradients, in the order of output_mask.
variable_list differentiable(const Call& call) {
  variable_list inputs{call.q, call.k, call.v};
  if (call.has_bias()) inputs.push_back(call.mask);
  if (call.sinks.defined()) inputs.push_back(call.sinks);
  return inputs;
}

// The node's backward.  Function::apply would bring its forward in as well, and
// searches for inputs among the outputs, of which there are none: run_recorded
// makes the node itself, in half of the time.
struct ForwardFunction : Function<ForwardFunction> {
  static variable_list backward(AutogradContext* context,
                                const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Call call =
        Call::of(at::TensorList(saved).slice(kOutputs),
                 context->saved_data["options"].toTupleRef().elements());
    const size_t inputs = differentiable(call).size();
    variable_list result(inputs);
    if (!grads[kOut].defined() && !grads[kLse].defined()) return result;
    // Which of the five gradients belongs to each input.
    const std::array<size_t, kGradients> which{
        kQ, kK, kV, call.has_bias() ? kBias : kSinks, kSinks};
    OutputMask is_wanted{};
    for (size_t i = 0; i < inputs; ++i) {
      is_wanted[which[i]] = context->needs_input_grad(i);
    }
    const Tensor grad_out =
        grads[kOut].defined() ? grads[kOut] : at::zeros_like(saved[kOut]);
    Stack stack{grad_out, or_none(grads[kLse]), saved[kOut], saved[kLse],
                saved[kStats]};
    stack.emplace_back(to_list(is_wanted));
    call.push(stack);
    // Through the Autograd key again, for the clear error of second gradients.
    backward_op().callBoxed(&stack);
    for (size_t i = 0; i < inputs; ++i) {
      if (is_wanted[which[i]]) result[i] = tensor_or_none(stack[which[i]]);
    }
    return result;
  }
};

// What backward needs of a call and of what it gave.
void save(const Call& call, const Outputs& outputs, AutogradContext& context) {
  variable_list saved{outputs.out, outputs.lse, outputs.stats};
  saved.reserve(saved.size() + Call::kTensors);
  for (const Tensor& tensor : call.tensors()) saved.push_back(tensor);
  context.save_for_backward(std::move(saved));
  context.saved_data["options"] = call.options();
  // out or lse, whichever nothing was made of, has no gradient.
  context.set_materialize_grads(false);
}

// As Function::apply refuses them: there is one derivative, and no other rule.
void refuse_transforms(const variable_list& inputs) {
  const auto& functorch = at::functorch::functorchTLSAccessor();
  if (functorch) functorch->checkSupportsCppAutogradFunction();
  for (const Tensor& input : inputs) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !input._fw_grad(0).defined(),
        "[flash_attention] jvp is not implemented: use torch.autograd");
  }
}

// Nodes are counted by std::shared_ptr or by c10::intrusive_ptr, according to
// PyTorch's version.
template <class Node>
auto make_node() {
  using Pointer = decltype(torch::autograd::Edge::function);
  if constexpr (std::is_same_v<Pointer,
                               std::shared_ptr<torch::autograd::Node>>) {
    // Its own deleter: it keeps long graphs from a deep recursion.
    return std::shared_ptr<Node>(new Node(),
                                 [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>();
  }
}

// By way of the dispatcher, for whatever keys are left.
Outputs dispatch_below(const Call& call) {
  Stack stack;
  call.push(stack);
  stack = run_below(forward_op(), std::move(stack));
  return {std::move(stack[kOut]).toTensor(), std::move(stack[kLse]).toTensor(),
          std::move(stack[kStats]).toTensor()};
}

}  // namespace

void refuse_second_derivatives() {
  // An exception that Python's autograd hands on as NotImplementedError, which
  // UnsupportedError is.
  C10_THROW_ERROR(
      NotImplementedError,
      "[flash_attention] gradients of gradients (double backward) are not "
      "implemented: leave out create_graph=True, or use "
      "torch.nn.functional.scaled_dot_product_attention with "
      "torch.nn.attention's math backend for this call");
}

bool has_derivative(const Tensor& tensor) {
  return (tensor.requires_grad() && at::GradMode::is_enabled()) ||
         tensor._fw_grad(0).defined();
}

Outputs run_recorded(const Call& call, Outputs (*run_below)(const Call& call)) {
  const variable_list inputs = differentiable(call);
  refuse_transforms(inputs);
  const bool is_recorded = at::GradMode::is_enabled() &&
                           torch::autograd::any_variable_requires_grad(inputs);
  if (!is_recorded) return run_below(call);
  const auto node = make_node<torch::autograd::CppNode<ForwardFunction>>();
  node->set_ctx_grad_fn(node);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  node->is_variable_input_.assign(inputs.size(), true);
  Outputs outputs;
  {
    const at::AutoGradMode is_off(false);
    const BackwardAhead will_be_run(
        call.has_bias() &&
        torch::autograd::any_variable_requires_grad(variable_list{call.mask}));
    outputs = run_below(call);
  }
  torch::autograd::set_history(outputs.out, node);
  torch::autograd::set_history(outputs.lse, node);
  save(call, outputs, node->ctx_);
  node->save_variables_to_ctx();
  return outputs;
}

void forward_autograd(const c10::OperatorHandle& op,
                      c10::DispatchKeySet keys,
                      Stack* stack) {
  bool is_differentiated = false;
  for (const c10::IValue& value : torch::jit::last(*stack, Call::kArguments)) {
    is_differentiated =
        is_differentiated || (value.isTensor() && value.toTensor().defined() &&
                              has_derivative(value.toTensor()));
  }
  if (!is_differentiated) {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
    return;
  }
  const Call call = Call::take(kForward, *stack);
  const Outputs outputs = run_recorded(call, &dispatch_below);
  torch::jit::push(*stack, with_dims_of(call, outputs.out),
                   with_dims_of(call, outputs.lse), outputs.stats);
}

void backward_autograd(const c10::OperatorHandle& /*op*/, Stack* stack) {
  constexpr size_t kArguments = kCallOfBackward + Call::kArguments;
  const auto arguments = torch::jit::last(*stack, kArguments);
  variable_list tensors;
  for (size_t i = 0; i < kBackwardTensors; ++i) {
    tensors.push_back(tensor_or_none(arguments[i]));
  }
  const Call call = Call::read(kBackward, arguments, kCallOfBackward);
  OutputMask is_wanted{};
  const auto wanted = arguments[kOutputMask].toBoolList();
  for (size_t i = 0; i < kGradients; ++i) is_wanted[i] = wanted[i];
  torch::jit::drop(*stack, kArguments);

  variable_list inputs;
  const auto of_call = call.tensors();
  for (const at::TensorList list :
       {at::TensorList(tensors), at::TensorList(of_call)}) {
    for (const Tensor& tensor : list) {
      if (tensor.defined()) inputs.push_back(tensor);
    }
  }
  bool is_recorded = false;
  for (const Tensor& tensor : inputs) {
    is_recorded = is_recorded || tensor.requires_grad();
  }
  if (!is_recorded || !at::GradMode::is_enabled()) {
    for (const c10::IValue& value : run_backward(tensors, call, is_wanted)) {
      stack->push_back(value);
    }
    return;
  }
  const auto outputs =
      BackwardFunction::apply(at::TensorList(inputs), tensors, call, is_wanted);
  auto next = outputs.begin();
  const bool has_dkv = is_wanted[kK] || is_wanted[kV];
  const OutputMask is_given{is_wanted[kQ], has_dkv, has_dkv,
                            is_wanted[kBias] && call.has_bias(),
                            is_wanted[kSinks] && call.sinks.defined()};
  for (const bool is_set : is_given) {
    torch::jit::push(*stack, is_set ? *next++ : Tensor());
  }
}

}  // namespace orchard::torch_ops
