// csrc/torch/call.h: the arguments of one attention call, as the operators of
// the schema take them, and their check: one for real and for fake tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

#include <array>

#include "attention/problem.h"

namespace orchard::torch_ops {

// The options stand in this order in every schema; call.cpp reads them.
#define ORCHARD_CALL_SCHEMA                                                 \
  "Tensor q, Tensor k, Tensor v, Tensor? attn_mask, Tensor? alibi_slopes, " \
  "Tensor? sinks, Tensor? seed, Tensor? cu_seqlens_q, "                     \
  "Tensor? cu_seqlens_k, float scale, float softcap, float dropout_p, "     \
  "int window_left, int window_right, bool is_bottom_right, "               \
  "SymInt max_seqlen_q, SymInt max_seqlen_k"

// std::optional from PyTorch 2.4 on, before that PyTorch's own.
using OptionalTensor =
    decltype(std::declval<c10::IValue&>().toOptional<at::Tensor>());

// Undefined tensors are those that were not given.
struct Call {
  at::Tensor q, k, v, mask, slopes, sinks, seed, starts_q, starts_kv;
  attention::Settings settings;
  // Of packed sequences, else 0.  torch.compile may have computed them from
  // cu_seqlens: only the run knows them then.
  c10::SymInt max_len_q = 0, max_len_kv = 0;
  // k and v are pages, or a cache with entries of its own: their first size is
  // not the batch.
  bool is_indirect = false;

  static constexpr size_t kArguments = 17;
  static constexpr size_t kTensors = 9;

  // Reads arguments first .. first + kArguments - 1.
  static Call read(c10::ArrayRef<c10::IValue> arguments, size_t first);
  void push(torch::jit::Stack& stack) const;

  std::array<at::Tensor, kTensors> tensors() const;
  bool is_packed() const { return starts_q.defined(); }
  bool has_bias() const { return mask.defined() && mask.is_floating_point(); }
};

attention::DType dtype_of(const char* operation, const at::Tensor& tensor);

// Throws Error(invalid_problem) unless the call makes sense; sizes may be
// symbolic and tensors without data.
void check_call(const char* operation, const Call& call);

// The problem of a checked call on a real device that can run it.
attention::Problem problem_of(const char* operation, const Call& call);

// An empty tensor of four dimensions, its rows and heads in memory in the order
// of `like`, so that a transposed input gives a transposed result.
at::Tensor empty_like_layout(const at::Tensor& like,
                             const std::array<c10::SymInt, 4>& sizes,
                             bool is_zeroed);

}  // namespace orchard::torch_ops
