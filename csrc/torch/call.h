// csrc/torch/call.h: the arguments of one attention call, as the operators of
// the schema take them, and their check: one for every device, real or fake.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <array>
#include <optional>
#include <vector>

#include "attention/problem.h"
#include "torch/leading.h"

namespace orchard::torch_ops {

// The options stand in this order in every schema; call.cpp reads them.  First
// those of torch.nn.functional.scaled_dot_product_attention, in its order,
// which alone are a short call.
#define ORCHARD_SHORT_SCHEMA                                       \
  "Tensor q, Tensor k, Tensor v, Tensor? attn_mask=None, "         \
  "float dropout_p=0.0, bool is_causal=False, float? scale=None, " \
  "bool enable_gqa=True"
#define ORCHARD_WINDOW_SCHEMA \
  ORCHARD_SHORT_SCHEMA        \
  ", bool is_bottom_right=False, int window_left=-1, int window_right=-1"
#define ORCHARD_CALL_SCHEMA                                                 \
  ORCHARD_WINDOW_SCHEMA                                                     \
  ", float softcap=0.0, Tensor? alibi_slopes=None, Tensor? sinks=None, "    \
  "Tensor? seed=None, Tensor? cu_seqlens_q=None, "                          \
  "Tensor? cu_seqlens_k=None, SymInt max_seqlen_q=0, SymInt max_seqlen_k=0" \
  ", bool return_lse=False, int[4]? part=None"

// std::optional from PyTorch 2.4 on, before that PyTorch's own.
using OptionalTensor =
    decltype(std::declval<c10::IValue&>().toOptional<at::Tensor>());
using OptionalDouble =
    decltype(std::declval<c10::IValue&>().toOptional<double>());

// How a stack holds a tensor that may be undefined.
inline c10::IValue or_none(const at::Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

// Tensors have four dimensions once read, whatever the caller gave; undefined
// are those that were not given.
struct Call {
  at::Tensor q, k, v, mask, slopes, sinks, seed, starts_q, starts_kv;
  attention::Settings settings;  // is_causal is a window_right of 0
  bool is_grouping_allowed = true;
  // lse is asked for.  Only CPU tensors, which may do without, look at it.
  bool needs_lse = false;
  // q, k and v came with other leading dimensions than [batch, heads], or none:
  // results go back with these.
  bool is_folded = false;
  std::vector<c10::SymInt> leading;
  // Of packed sequences, else 0.  torch.compile may have computed them from
  // cu_seqlens: only the run knows them then.
  c10::SymInt max_len_q = 0, max_len_kv = 0;
  // k and v are pages, or a cache with entries of its own: their first size is
  // not the batch.
  bool is_indirect = false;

  static constexpr size_t kShortArguments = 8;
  static constexpr size_t kWindowArguments = 11;
  static constexpr size_t kArguments = 21;
  static constexpr size_t kTensors = 9;

  // Reads arguments first .. first + kArguments - 1, where they end the
  // schema's defaults; throws for tensors that have no strides.
  static Call read(const char* operation,
                   c10::ArrayRef<c10::IValue> arguments,
                   size_t first);
  // Reads and removes the last arguments: all, or the first of all.
  static Call take(const char* operation,
                   torch::jit::Stack& stack,
                   size_t arguments = kArguments);
  // The schema's values for the arguments after the first `given`, which is at
  // least kShortArguments.
  static c10::ArrayRef<c10::IValue> defaults(size_t given);
  void push(torch::jit::Stack& stack) const;
  // All but the tensors, and a call of both; tensors as tensors() orders them.
  c10::IValue options() const;
  static Call of(at::TensorList tensors, c10::ArrayRef<c10::IValue> options);

  std::array<at::Tensor, kTensors> tensors() const;
  bool is_packed() const { return starts_q.defined(); }
  bool is_partial() const { return settings.part.has_value(); }
  bool has_bias() const { return mask.defined() && mask.is_floating_point(); }
};

// A result as the caller wants it back.
inline at::Tensor with_dims_of(const Call& call, const at::Tensor& result) {
  return call.is_folded ? unfold_leading(call, result) : result;
}

// Looked up by name once.
const c10::OperatorHandle& forward_op();

const char* torch_name(at::ScalarType dtype);  // as Python writes it

// 1/sqrt(head_dim), a number even where the head size is symbolic, because
// kernels are made for each.
double default_scale(const at::Tensor& q);

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
                             at::ScalarType dtype,
                             bool is_zeroed);

// The dtype of out and of the gradients of q, k and v: those of a part are
// summed.
at::ScalarType result_dtype(const Call& call);
// ... and of lse: parts in float64 are merged in it.
at::ScalarType lse_dtype(const Call& call);

// A call's part as an operator takes it, and as it gives it.
c10::IValue part_value(const std::optional<attention::Part>& part);
std::optional<attention::Part> part_in(const char* operation,
                                       c10::ArrayRef<int64_t> numbers);

}  // namespace orchard::torch_ops
