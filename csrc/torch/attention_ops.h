// csrc/torch/attention_ops.h: the operators' names and the boxed functions
// behind their keys (ops.cpp registers them).
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/stack.h>

#include <cstdint>

namespace orchard::torch_ops {

inline constexpr const char* kForward = "flash_attention";
inline constexpr const char* kBackward = "flash_attention_backward";

// backward's arguments before and after those of Call: grad_out, grad_lse (or
// none), out, lse, stats; output_mask: q, k, v, attn_mask, sinks.
inline constexpr size_t kBackwardTensors = 5;
inline constexpr size_t kBackwardArguments = kBackwardTensors + 17 + 1;
inline constexpr size_t kGradients = 5;

inline constexpr const char* kDecode = "flash_attention_with_kvcache";

// Bytes that a backward may keep gradients of scores in: attention/spill.h.
int64_t backward_scratch();
void set_backward_scratch(int64_t bytes);

void forward_device(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void forward_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void forward_autograd(const c10::OperatorHandle& op,
                      c10::DispatchKeySet keys,
                      torch::jit::Stack* stack);
void backward_device(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void backward_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void backward_autograd(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace orchard::torch_ops
