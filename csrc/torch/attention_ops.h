// csrc/torch/attention_ops.h: the operators' names and the boxed functions
// behind their keys (ops.cpp registers them).
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/stack.h>

#include <cstdint>

#include "torch/call.h"

namespace orchard::torch_ops {

inline constexpr const char* kForward = "flash_attention";
inline constexpr const char* kBackward = "flash_attention_backward";

// What forward returns, and backward's arguments before output_mask and those
// of Call.
enum Output : uint8_t { kOut, kLse, kStats, kOutputs };
enum BackwardTensor : uint8_t {
  kGradOut,
  kGradLse,  // or none
  kForwardOut,
  kForwardLse,
  kForwardStats,
  kBackwardTensors
};
inline constexpr size_t kOutputMask = kBackwardTensors;
inline constexpr size_t kCallOfBackward = kOutputMask + 1;

// What backward returns, in this order, and what output_mask asks for.
enum Gradient : uint8_t { kQ, kK, kV, kBias, kSinks, kGradients };

inline constexpr const char* kDecode = "flash_attention_with_kvcache";

// Bytes that a backward may keep gradients of scores in: attention/spill.h.
int64_t backward_scratch();
void set_backward_scratch(int64_t bytes);

// Throws the error of a derivative of a derivative.
[[noreturn]] void refuse_second_derivatives();

// The backward operator's arguments, on the stack, become its results.
void run_backward_on_device(torch::jit::Stack& stack);

// What forward computes on a device.
struct Outputs {
  at::Tensor out, lse, stats;
};

// Forward as the devices' keys call it: with the check, in four dimensions.
Outputs run_on_device(const Call& call);
// With a node for backward where one is wanted; `run_below` computes.
Outputs run_recorded(const Call& call, Outputs (*run_below)(const Call& call));
// Whether a tensor takes part in a derivative, backward or forward.
bool has_derivative(const at::Tensor& tensor);

void forward_device(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void forward_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void forward_autograd(const c10::OperatorHandle& op,
                      c10::DispatchKeySet keys,
                      torch::jit::Stack* stack);
void forward_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack);
// Tensors that nothing here serves: says why.
void forward_elsewhere(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void backward_device(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void backward_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void backward_autograd(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace orchard::torch_ops
