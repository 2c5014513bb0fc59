// csrc/torch/call.cpp: reading, checking and translating a call.
#include "torch/call.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "torch/attention_ops.h"
#include "torch/bridge.h"

namespace orchard::torch_ops {

using at::Tensor;
using attention::DType;
using attention::MaskKind;
using attention::Problem;
using attention::refuse;

namespace {

template <class Int>
std::array<Int, 4> sizes_as(const Tensor& tensor) {
  const auto sizes = tensor.sym_sizes();
  if constexpr (std::is_same_v<Int, c10::SymInt>) {
    return {sizes[0], sizes[1], sizes[2], sizes[3]};
  } else {
    const auto known = c10::asIntArrayRefUnchecked(sizes);
    return {known[0], known[1], known[2], known[3]};
  }
}

bool has_symbols(const Tensor& tensor) {
  return tensor.defined() && !c10::asIntArrayRefSlowOpt(tensor.sym_sizes());
}

// Before anything else is asked, because other layouts have no sizes.
void check_dense(const char* operation,
                 const char* name,
                 const Tensor& tensor) {
  if (!tensor.defined() ||
      (tensor.layout() == at::kStrided && !tensor.is_nested())) {
    return;
  }
  std::ostringstream text;
  text << '[' << operation << "] expected " << name
       << " to be a dense tensor, got ";
  if (tensor.is_nested()) {
    text << "a nested one; pack the sequences one after the other for "
            "flash_attention_varlen";
  } else {
    text << "one of layout torch." << tensor.layout()
         << "; convert it with .to_dense()";
  }
  throw Error(ErrorKind::unsupported, text.str());
}

void check_ranks(const char* operation, const Call& call) {
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  if (q.dim() == 4 && k.dim() == 4 && v.dim() == 4) return;
  refuse(operation,
         "expected q, k and v to have 4 dimensions [batch, heads, len, "
         "head_dim], got shapes ",
         q.sym_sizes(), ", ", k.sym_sizes(), ", ", v.sym_sizes(),
         "; add or merge dimensions with unsqueeze or flatten");
}

void check_qkv(const char* operation, const Call& call) {
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  check_ranks(operation, call);
  if (k.device() != q.device() || v.device() != q.device()) {
    refuse(operation, "expected q, k and v on one device, got ", q.device(),
           ", ", k.device(), " and ", v.device(),
           "; move them with .to(q.device)");
  }
  const auto dtype = q.scalar_type();
  if (k.scalar_type() != dtype || v.scalar_type() != dtype) {
    refuse(operation, "expected q, k and v of one dtype, got ",
           torch_name(dtype), ", ", torch_name(k.scalar_type()), " and ",
           torch_name(v.scalar_type()), "; cast them with .to(q.dtype)");
  }
  // On the CPU PyTorch's own operators do the work, and a model's float64 copy
  // is what results are measured against.
  // A tensor without data may stand for one of the CPU.
  if (dtype != at::kDouble || !(q.is_cpu() || q.is_meta())) {
    dtype_of(operation, q);
  }
  // One key head for all is broadcast, as PyTorch does it.
  if (!call.is_grouping_allowed && k.sym_size(1) != 1 &&
      q.sym_size(1) != k.sym_size(1)) {
    refuse(operation,
           "expected heads_q == heads_kv with enable_gqa=False, got ",
           q.sym_size(1), " and ", k.sym_size(1),
           "; pass enable_gqa=True to share key heads");
  }
}

// That a tensor lies where q does.
void check_beside(const char* operation,
                  const char* name,
                  const Tensor& tensor,
                  const Tensor& q) {
  if (tensor.device() == q.device()) return;
  refuse(operation, "expected ", name, " on q's device ", q.device(), ", got ",
         tensor.device(), "; move it with .to(q.device)");
}

void check_mask_tensor(const char* operation, const Call& call) {
  const Tensor& mask = call.mask;
  if (call.is_packed()) {
    refuse(operation,
           "expected no attn_mask with packed sequences, got both; leave it "
           "out, or pad the sequences");
  }
  check_beside(operation, "attn_mask", mask, call.q);
  const auto dtype = mask.scalar_type();
  if (dtype == at::kBool) return;
  // Where there is float64, its sums are too.
  const bool is_taken = dtype == at::kDouble
                            ? call.q.is_cpu() || call.q.is_meta()
                            : at::isFloatingType(dtype);
  if (is_taken) return;
  refuse(operation,
         "expected attn_mask to be bool (True = attend) or a "
         "floating-point tensor, float64 on the CPU alone, got ",
         torch_name(dtype), "; cast it with .to, or a 0/1 mask with .bool()");
}

// A length that only the run will know is checked then: asking for it here
// would make torch.compile give up.
void check_length(const char* operation,
                  const char* name,
                  const c10::SymInt& length) {
  const auto known = length.maybe_as_int();
  if (known && (*known < 0 || *known > attention::kMaxLength)) {
    refuse(operation, "expected ", name, " from 0 to ", attention::kMaxLength,
           ", got ", *known, "; cut the sequence into several");
  }
}

// The longest sequence's length, at least 1: kernels launch for some row.
int64_t longest(const c10::SymInt& length) {
  return std::max<int64_t>(length.expect_int(), 1);
}

// Where the sequences of one side begin.
void check_starts(const char* operation,
                  const char* name,
                  const Tensor& starts,
                  const Tensor& q) {
  check_beside(operation, name, starts, q);
  if (starts.scalar_type() == at::kInt && starts.dim() == 1 &&
      starts.sym_size(0) >= 2) {
    return;
  }
  refuse(operation, "expected ", name,
         " to be int32 of shape [sequences + 1], got ",
         torch_name(starts.scalar_type()), " of shape ", starts.sym_sizes(),
         "; make it with lengths.cumsum(0, dtype=torch.int32) and a 0 in "
         "front");
}

void check_packed(const char* operation, const Call& call) {
  if (!call.starts_q.defined() || !call.starts_kv.defined()) {
    refuse(operation,
           "expected cu_seqlens_q and cu_seqlens_k together, got one of them; "
           "pass both");
  }
  if (call.q.sym_size(0) != 1) {
    refuse(operation, "expected a batch of 1 with packed sequences, got ",
           call.q.sym_size(0), "; put them one after the other");
  }
  check_length(operation, "max_seqlen_q", call.max_len_q);
  check_length(operation, "max_seqlen_k", call.max_len_kv);
  const bool is_one = call.is_partial();  // for both sides
  check_starts(operation, is_one ? "cu_seqlens" : "cu_seqlens_q", call.starts_q,
               call.q);
  check_starts(operation, is_one ? "cu_seqlens" : "cu_seqlens_k",
               call.starts_kv, call.q);
  if (call.starts_q.sym_size(0) != call.starts_kv.sym_size(0)) {
    refuse(operation,
           "expected cu_seqlens_q and cu_seqlens_k of one length, got ",
           call.starts_q.sym_size(0), " and ", call.starts_kv.sym_size(0),
           "; a sequence without keys repeats a number");
  }
}

// One float32 number for each head of q, or for each of every batch entry.
void check_per_head(const char* operation,
                    const char* name,
                    const Tensor& tensor,
                    const Call& call,
                    bool is_per_batch_allowed) {
  if (!tensor.defined()) return;
  check_beside(operation, name, tensor, call.q);
  if (tensor.scalar_type() != at::kFloat) {
    refuse(operation, "expected ", name, " to be float32, got ",
           torch_name(tensor.scalar_type()), "; cast it with .float()");
  }
  const c10::SymInt heads = call.q.sym_size(1);
  const c10::SymInt batch =
      call.is_packed() ? call.starts_q.sym_numel() - 1 : call.q.sym_size(0);
  const auto sizes = tensor.sym_sizes();
  if (sizes.size() == 1 && sizes[0] == heads) return;
  if (is_per_batch_allowed && sizes.size() == 2 && sizes[0] == batch &&
      sizes[1] == heads) {
    return;
  }
  std::ostringstream wanted;
  wanted << '[' << heads << ']';
  if (is_per_batch_allowed) wanted << " or [" << batch << ", " << heads << ']';
  refuse(operation, "expected ", name, " of shape ", wanted.str(),
         ", one number for each head of q, got ", sizes,
         "; expand or slice it");
}

template <class Int>
void check_sizes(const char* operation, const Call& call) {
  attention::Shapes<Int> shapes{sizes_as<Int>(call.q), sizes_as<Int>(call.k),
                                sizes_as<Int>(call.v)};
  if (call.is_indirect) shapes.k[0] = shapes.v[0] = shapes.q[0];
  attention::check_shapes(operation, shapes);
  check_length(operation, "len_q", shapes.q[2]);
  check_length(operation, "len_kv", shapes.k[2]);
  if (call.is_packed() || call.starts_kv.defined()) {
    check_packed(operation, call);
  }
  if (call.mask.defined()) {
    check_mask_tensor(operation, call);
    attention::check_mask(operation, shapes, sizes_as<Int>(call.mask));
  }
}

void check_seed(const char* operation, const Call& call) {
  const Tensor& seed = call.seed;
  if (call.settings.dropout_p == 0.0) return;
  if (!seed.defined()) {
    refuse(operation,
           "expected a seed with dropout_p, got none; draw one with "
           "torch.randint");
  }
  if (seed.scalar_type() != at::kLong || seed.sym_numel() != 1) {
    refuse(operation, "expected seed to be one int64, got ",
           torch_name(seed.scalar_type()), " of shape ", seed.sym_sizes(),
           "; draw one with torch.randint");
  }
}

// What of a part its tensors say.
void check_part(const char* operation, const Call& call) {
  const attention::Part& part = *call.settings.part;
  check_length(operation, "q_offset + len_q",
               call.q.sym_size(2) + part.q_offset);
  check_length(operation, "k_offset + len_kv",
               call.k.sym_size(2) + part.k_offset);
  const c10::SymInt heads = call.q.sym_size(1);
  if (heads + part.head_offset > part.heads_total) {
    refuse(operation, "expected head_offset + heads_q of at most heads_total, ",
           "got ", part.head_offset, " + ", heads, " and ", part.heads_total,
           "; heads_total counts the heads of the whole");
  }
  if (call.sinks.defined()) {
    refuse(operation,
           "expected no sinks with a part of the keys, got some; give them to "
           "merge_partials, once for all parts");
  }
}

// A float mask of a dtype that kernels do not read beside q's: float32 holds
// each of its numbers.
Tensor as_kernels_read(const Tensor& mask, const Tensor& q) {
  if (!mask.defined()) return mask;
  const auto dtype = mask.scalar_type();
  if (!at::isFloatingType(dtype) || dtype == at::kFloat ||
      dtype == at::kDouble || dtype == q.scalar_type()) {
    return mask;
  }
  return mask.to(at::kFloat);
}

// `next` returns one IValue after the other, in the order of the schema.
template <class Next>
void read_options(const Next& next, Call& call) {
  attention::Settings& settings = call.settings;
  settings.dropout_p = next().toDouble();
  const bool is_causal = next().toBool();
  const c10::IValue& scale = next();
  settings.scale = scale.isNone() ? default_scale(call.q) : scale.toDouble();
  call.is_grouping_allowed = next().toBool();
  settings.is_bottom_right = next().toBool();
  settings.window_left = next().toInt();
  settings.window_right = next().toInt();
  if (is_causal && settings.window_right >= -1) settings.window_right = 0;
  settings.softcap = next().toDouble();
}

template <class Next>
void read_rest(const char* operation, const Next& next, Call& call) {
  call.max_len_q = next().toSymInt();
  call.max_len_kv = next().toSymInt();
  call.needs_lse = next().toBool();
  const c10::IValue& part = next();
  if (!part.isNone()) {
    call.settings.part = part_in(operation, part.toIntVector());
  }
}

}  // namespace

Call Call::read(const char* operation,
                c10::ArrayRef<c10::IValue> arguments,
                size_t first) {
  const auto rest = defaults(arguments.size() - first);
  const auto next = [&]() -> const c10::IValue& {
    const size_t i = first++;
    return i < arguments.size() ? arguments[i] : rest[i - arguments.size()];
  };
  Call call;
  const auto read_tensor = [&](const char* name, Tensor& tensor) {
    const c10::IValue& value = next();
    if (value.isNone()) return;
    tensor = value.toTensor();
    check_dense(operation, name, tensor);
  };
  read_tensor("q", call.q);
  read_tensor("k", call.k);
  read_tensor("v", call.v);
  read_tensor("attn_mask", call.mask);
  read_options(next, call);
  read_tensor("alibi_slopes", call.slopes);
  read_tensor("sinks", call.sinks);
  read_tensor("seed", call.seed);
  read_tensor("cu_seqlens_q", call.starts_q);
  read_tensor("cu_seqlens_k", call.starts_kv);
  read_rest(operation, next, call);
  if (has_other_dims(call)) fold_leading(operation, call);
  call.mask = as_kernels_read(call.mask, call.q);
  return call;
}

Call Call::take(const char* operation,
                torch::jit::Stack& stack,
                size_t arguments) {
  Call call = read(operation, torch::jit::last(stack, arguments), 0);
  torch::jit::drop(stack, arguments);
  return call;
}

c10::ArrayRef<c10::IValue> Call::defaults(size_t given) {
  static const std::vector<c10::IValue> values = [] {
    const auto& arguments = forward_op().schema().arguments();
    std::vector<c10::IValue> found;
    for (size_t i = kShortArguments; i < kArguments; ++i) {
      found.push_back(*arguments[i].default_value());
    }
    return found;
  }();
  return c10::ArrayRef<c10::IValue>(values).slice(given - kShortArguments);
}

Call Call::of(at::TensorList tensors, c10::ArrayRef<c10::IValue> options) {
  size_t first = 0;
  const auto next = [&]() -> const c10::IValue& { return options[first++]; };
  Call call;
  size_t i = 0;
  for (Tensor* tensor :
       {&call.q, &call.k, &call.v, &call.mask, &call.slopes, &call.sinks,
        &call.seed, &call.starts_q, &call.starts_kv}) {
    *tensor = tensors[i++];
  }
  read_options(next, call);
  read_rest(kForward, next, call);
  return call;
}

c10::IValue Call::options() const {
  return c10::ivalue::Tuple::create(
      settings.dropout_p, /*is_causal=*/false, settings.scale,
      is_grouping_allowed, settings.is_bottom_right, settings.window_left,
      settings.window_right, settings.softcap, max_len_q, max_len_kv, needs_lse,
      part_value(settings.part));
}

void Call::push(torch::jit::Stack& stack) const {
  stack.reserve(stack.size() + kArguments);
  torch::jit::push(stack, q, k, v, or_none(mask), settings.dropout_p,
                   /*is_causal=*/false, settings.scale, is_grouping_allowed,
                   settings.is_bottom_right, settings.window_left,
                   settings.window_right, settings.softcap, or_none(slopes),
                   or_none(sinks), or_none(seed), or_none(starts_q),
                   or_none(starts_kv), max_len_q, max_len_kv, needs_lse,
                   part_value(settings.part));
}

std::array<Tensor, Call::kTensors> Call::tensors() const {
  return {q, k, v, mask, slopes, sinks, seed, starts_q, starts_kv};
}

const c10::OperatorHandle& forward_op() {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("orchard_ops::forward",
                                                     "");
  return op;
}

const char* torch_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "torch.float32";
    case at::kDouble:
      return "torch.float64";
    case at::kHalf:
      return "torch.float16";
    case at::kBFloat16:
      return "torch.bfloat16";
    case at::kBool:
      return "torch.bool";
    case at::kInt:
      return "torch.int32";
    case at::kLong:
      return "torch.int64";
    default:
      return c10::toString(dtype);
  }
}

// 0 is refused later, by its own name.
double default_scale(const Tensor& q) {
  if (q.dim() == 0) return 1.0;
  const auto head_dim = q.sym_size(-1).guard_int(__FILE__, __LINE__);
  return 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(head_dim, 1)));
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
      refuse(operation, "expected float32, float16 or bfloat16, got ",
             torch_name(tensor.scalar_type()), "; cast with .to");
  }
}

void check_call(const char* operation, const Call& call) {
  check_qkv(operation, call);
  attention::check_settings(operation, call.settings);
  // To compare symbols costs a function call each: only where there are any.
  if (has_symbols(call.q) || has_symbols(call.k) || has_symbols(call.v) ||
      has_symbols(call.mask)) {
    check_sizes<c10::SymInt>(operation, call);
  } else {
    check_sizes<int64_t>(operation, call);
  }
  check_per_head(operation, "alibi_slopes", call.slopes, call, true);
  check_per_head(operation, "sinks", call.sinks, call, false);
  check_seed(operation, call);
  if (call.is_partial()) check_part(operation, call);
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
  problem.columns_per_head = call.k.size(2);
  problem.len_q = problem.is_packed ? longest(call.max_len_q) : call.q.size(2);
  problem.len_kv =
      problem.is_packed ? longest(call.max_len_kv) : call.k.size(2);
  problem.head_dim = call.q.size(3);
  problem.head_dim_v = call.v.size(3);
  if (call.mask.defined()) {
    problem.mask_sizes = sizes_as<int64_t>(call.mask);
    problem.mask = call.has_bias() ? MaskKind::bias : MaskKind::boolean;
    if (call.has_bias()) problem.mask_dtype = dtype_of(operation, call.mask);
  }
  problem.has_slopes = call.slopes.defined();
  problem.has_batch_slopes = problem.has_slopes && call.slopes.dim() == 2;
  problem.has_sinks = call.sinks.defined();
  if (call.settings.dropout_p > 0.0) {
    if (!call.seed.device().is_cpu()) {
      refuse(operation, "expected seed on the CPU, got ", call.seed.device(),
             "; move it with .cpu()");
    }
    problem.seed = static_cast<uint64_t>(*call.seed.data_ptr<int64_t>());
  }
  return problem;
}

Tensor empty_like_layout(const Tensor& like,
                         const std::array<c10::SymInt, 4>& sizes,
                         at::ScalarType dtype,
                         bool is_zeroed) {
  const auto options = like.options().dtype(dtype);
  const auto make = [&](c10::SymIntArrayRef shape) {
    return is_zeroed ? at::zeros_symint(shape, options)
                     : at::empty_symint(shape, options);
  };
  const bool is_rows_outside = like.sym_stride(1) < like.sym_stride(2);
  if (!is_rows_outside) return make(sizes);
  return make({sizes[0], sizes[2], sizes[1], sizes[3]}).transpose(1, 2);
}

at::ScalarType result_dtype(const Call& call) {
  const auto dtype = call.q.scalar_type();
  return call.is_partial() && dtype != at::kDouble ? at::kFloat : dtype;
}

at::ScalarType lse_dtype(const Call& call) {
  return call.is_partial() ? result_dtype(call) : at::kFloat;
}

c10::IValue part_value(const std::optional<attention::Part>& part) {
  if (!part) return {};
  return std::vector<int64_t>{part->q_offset, part->k_offset, part->head_offset,
                              part->heads_total};
}

std::optional<attention::Part> part_in(const char* operation,
                                       c10::ArrayRef<int64_t> numbers) {
  if (numbers.size() != 4) {
    refuse(operation,
           "expected part to be (q_offset, k_offset, head_offset, "
           "heads_total), got ",
           numbers.size(), " numbers; give all four");
  }
  return attention::Part{numbers[0], numbers[1], numbers[2], numbers[3]};
}

}  // namespace orchard::torch_ops
