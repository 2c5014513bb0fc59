// csrc/torch/call.cpp: reading, checking and translating a call.
#include "torch/call.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "torch/bridge.h"

namespace orchard::torch_ops {

using at::Tensor;
using attention::DType;
using attention::MaskKind;
using attention::Problem;
using attention::refuse;
using attention::Shapes;

namespace {

Tensor optional_tensor(const c10::IValue& value) {
  return value.isNone() ? Tensor() : value.toTensor();
}

std::array<c10::SymInt, 4> sym_sizes(const Tensor& tensor) {
  const auto sizes = tensor.sym_sizes();
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

std::array<int64_t, 4> sizes_of(const Tensor& tensor) {
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

void check_qkv(const char* operation, const Call& call) {
  const Tensor& q = call.q;
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>{"q", q},
        {"k", call.k},
        {"v", call.v}}) {
    if (tensor.dim() != 4) {
      refuse(operation, name,
             " must have 4 dimensions [batch, heads, length, head_dim], got ",
             tensor.dim());
    }
    dtype_of(operation, tensor);
    if (tensor.scalar_type() != q.scalar_type()) {
      refuse(operation, "q, k and v must have one dtype, got ",
             c10::toString(q.scalar_type()), " and ",
             c10::toString(tensor.scalar_type()), " for ", name);
    }
    if (tensor.device() != q.device()) {
      refuse(operation, "q, k and v must be on one device, got ",
             q.device().str(), " and ", tensor.device().str(), " for ", name);
    }
  }
}

// A small tensor beside q, k and v: its device, dtype and sizes.
void check_extra(const char* operation,
                 const char* name,
                 const Tensor& tensor,
                 const Tensor& q,
                 at::ScalarType dtype,
                 c10::SymIntArrayRef sizes) {
  if (tensor.device() == q.device() && tensor.scalar_type() == dtype &&
      tensor.sym_sizes() == sizes) {
    return;
  }
  refuse(operation, name, " must be ", c10::toString(dtype), " of shape ",
         sizes, " on ", q.device().str(), ", got ",
         c10::toString(tensor.scalar_type()), " of shape ", tensor.sym_sizes(),
         " on ", tensor.device().str());
}

void check_mask_tensor(const char* operation, const Call& call) {
  const Tensor& mask = call.mask;
  if (call.is_packed()) {
    refuse(operation, "attn_mask cannot be combined with packed sequences");
  }
  if (mask.device() != call.q.device() || mask.dim() != 4) {
    refuse(operation, "attn_mask must have 4 dimensions on ",
           call.q.device().str(), ", got ", mask.dim(), " on ",
           mask.device().str());
  }
  const auto dtype = mask.scalar_type();
  if (dtype != at::kBool && dtype != at::kFloat &&
      dtype != call.q.scalar_type()) {
    refuse(operation, "attn_mask must be bool, float32 or ",
           c10::toString(call.q.scalar_type()), " as q is, got ",
           c10::toString(dtype));
  }
}

// A length that only the run will know is checked then: asking for it here
// would make torch.compile give up.
void check_length(const char* operation,
                  const char* name,
                  const c10::SymInt& length) {
  const auto known = length.maybe_as_int();
  if (known && (*known < 0 || *known > attention::kMaxLength)) {
    refuse(operation, name, " must be 0 to ", attention::kMaxLength, ", got ",
           *known);
  }
}

// The longest sequence's length, at least 1: kernels launch for some row.
int64_t longest(const c10::SymInt& length) {
  return std::max<int64_t>(length.expect_int(), 1);
}

void check_packed(const char* operation, const Call& call) {
  if (call.q.sym_size(0) != 1) {
    refuse(operation, "packed sequences take a batch of 1, got ",
           call.q.sym_size(0));
  }
  if (!call.starts_kv.defined()) {
    refuse(operation, "cu_seqlens_q came without cu_seqlens_k");
  }
  check_length(operation, "max_seqlen_q", call.max_len_q);
  check_length(operation, "max_seqlen_k", call.max_len_kv);
  const c10::SymInt length = call.starts_q.sym_numel();
  if (length < 2) {
    refuse(operation, "cu_seqlens_q must have a number for each sequence and ",
           "one more, got ", length);
  }
  check_extra(operation, "cu_seqlens_q", call.starts_q, call.q, at::kInt,
              {length});
  check_extra(operation, "cu_seqlens_k", call.starts_kv, call.q, at::kInt,
              {length});
}

void check_extras(const char* operation, const Call& call) {
  const c10::SymInt heads = call.q.sym_size(1);
  if (call.slopes.defined()) {
    const c10::SymInt batch =
        call.is_packed() ? call.starts_q.sym_numel() - 1 : call.q.sym_size(0);
    if (call.slopes.dim() == 2) {
      check_extra(operation, "alibi_slopes", call.slopes, call.q, at::kFloat,
                  {batch, heads});
    } else {
      check_extra(operation, "alibi_slopes", call.slopes, call.q, at::kFloat,
                  {heads});
    }
  }
  if (call.sinks.defined()) {
    check_extra(operation, "sinks", call.sinks, call.q, at::kFloat, {heads});
  }
  if (call.settings.dropout_p > 0.0 &&
      (!call.seed.defined() || call.seed.dim() != 0 ||
       call.seed.scalar_type() != at::kLong)) {
    refuse(operation, "dropout needs a seed: an int64 CPU tensor of no ",
           "dimensions");
  }
}

template <class Int>
Shapes<Int> shapes_of(const Call& call) {
  if constexpr (std::is_same_v<Int, int64_t>) {
    return {sizes_of(call.q), sizes_of(call.k), sizes_of(call.v)};
  } else {
    return {sym_sizes(call.q), sym_sizes(call.k), sym_sizes(call.v)};
  }
}

}  // namespace

Call Call::read(c10::ArrayRef<c10::IValue> arguments, size_t first) {
  const auto next = [&]() -> const c10::IValue& { return arguments[first++]; };
  Call call;
  for (Tensor* tensor :
       {&call.q, &call.k, &call.v, &call.mask, &call.slopes, &call.sinks,
        &call.seed, &call.starts_q, &call.starts_kv}) {
    *tensor = optional_tensor(next());
  }
  attention::Settings& settings = call.settings;
  settings.scale = next().toDouble();
  settings.softcap = next().toDouble();
  settings.dropout_p = next().toDouble();
  settings.window_left = next().toInt();
  settings.window_right = next().toInt();
  settings.is_bottom_right = next().toBool();
  call.max_len_q = next().toSymInt();
  call.max_len_kv = next().toSymInt();
  return call;
}

void Call::push(torch::jit::Stack& stack) const {
  stack.reserve(stack.size() + kArguments + 1);  // backward adds one
  for (const Tensor& tensor : tensors()) {
    stack.push_back(tensor.defined() ? c10::IValue(tensor) : c10::IValue());
  }
  torch::jit::push(stack, settings.scale, settings.softcap, settings.dropout_p,
                   settings.window_left, settings.window_right,
                   settings.is_bottom_right, max_len_q, max_len_kv);
}

std::array<Tensor, Call::kTensors> Call::tensors() const {
  return {q, k, v, mask, slopes, sinks, seed, starts_q, starts_kv};
}

DType dtype_of(const char* operation, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      refuse(operation, "q, k and v must be float32, float16 or bfloat16, got ",
             c10::toString(tensor.scalar_type()));
  }
}

void check_call(const char* operation, const Call& call) {
  check_qkv(operation, call);
  attention::check_settings(operation, call.settings);
  auto shapes = shapes_of<c10::SymInt>(call);
  if (call.is_indirect) shapes.k[0] = shapes.v[0] = shapes.q[0];
  attention::check_shapes(operation, shapes);
  check_length(operation, "len_q", shapes.q[2]);
  check_length(operation, "len_kv", shapes.k[2]);
  if (call.is_packed() || call.starts_kv.defined()) {
    if (!call.is_packed()) {
      refuse(operation, "cu_seqlens_k came without cu_seqlens_q");
    }
    check_packed(operation, call);
  }
  if (call.mask.defined()) {
    check_mask_tensor(operation, call);
    attention::check_mask(operation, shapes, sym_sizes(call.mask));
  }
  check_extras(operation, call);
}

Problem problem_of(const char* operation, const Call& call) {
  Problem problem;
  problem.dtype = dtype_of(operation, call.q);
  const std::string reason = attention::unsupported_reason(
      problem.dtype, device_of(operation, call.q).limits());
  if (!reason.empty()) {
    throw Error(ErrorKind::unsupported,
                std::string("[") + operation + "] " + reason);
  }
  problem.settings = call.settings;
  problem.is_packed = call.is_packed();
  problem.batch =
      problem.is_packed ? call.starts_q.size(0) - 1 : call.q.size(0);
  problem.heads_q = call.q.size(1);
  problem.heads_kv = call.k.size(1);
  problem.rows_per_head = call.q.size(2);
  problem.len_q = problem.is_packed ? longest(call.max_len_q) : call.q.size(2);
  problem.len_kv =
      problem.is_packed ? longest(call.max_len_kv) : call.k.size(2);
  problem.head_dim = call.q.size(3);
  problem.head_dim_v = call.v.size(3);
  if (call.mask.defined()) {
    problem.mask_sizes = sizes_of(call.mask);
    problem.mask = call.has_bias() ? MaskKind::bias : MaskKind::boolean;
    if (call.has_bias()) problem.mask_dtype = dtype_of(operation, call.mask);
  }
  problem.has_slopes = call.slopes.defined();
  problem.has_batch_slopes = problem.has_slopes && call.slopes.dim() == 2;
  problem.has_sinks = call.sinks.defined();
  if (call.settings.dropout_p > 0.0) {
    if (!call.seed.device().is_cpu()) {
      refuse(operation, "seed must be on the CPU, got ",
             call.seed.device().str());
    }
    problem.seed = static_cast<uint64_t>(*call.seed.data_ptr<int64_t>());
  }
  return problem;
}

Tensor empty_like_layout(const Tensor& like,
                         const std::array<c10::SymInt, 4>& sizes,
                         bool is_zeroed) {
  const auto make = [&](c10::SymIntArrayRef shape) {
    return is_zeroed ? at::zeros_symint(shape, like.options())
                     : at::empty_symint(shape, like.options());
  };
  const bool is_rows_outside = like.sym_stride(1) < like.sym_stride(2);
  if (!is_rows_outside) return make(sizes);
  return make({sizes[0], sizes[2], sizes[1], sizes[3]}).transpose(1, 2);
}

}  // namespace orchard::torch_ops
