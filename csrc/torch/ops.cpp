// csrc/torch/ops.cpp: the operators: schemas, the functions behind the device,
// Meta and Autograd keys, and the small operators that report.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "attention/plan.h"
#include "attention/problem.h"
#include "torch/bridge.h"
#include "torch/launch_log.h"
#ifdef ORCHARD_WITH_METAL
#include "torch/mps_stream.h"
#endif

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::DType;
using attention::Problem;
using attention::Shapes;

constexpr const char* kForward = "flash_attention";
constexpr const char* kBackward = "flash_attention_backward";

DType dtype_of(const char* operation, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      attention::refuse(operation,
                        "q, k and v must be float32, float16 or bfloat16, got ",
                        c10::toString(tensor.scalar_type()));
  }
}

std::array<c10::SymInt, 4> sym_sizes(const Tensor& tensor) {
  const auto sizes = tensor.sym_sizes();
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

std::array<int64_t, 4> sizes_of(const Tensor& tensor) {
  return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
}

// What must hold before sizes can be compared, for real and fake tensors.
void check_tensors(const char* operation,
                   const Tensor& q,
                   const Tensor& k,
                   const Tensor& v) {
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>{"q", q}, {"k", k}, {"v", v}}) {
    if (tensor.dim() != 4) {
      attention::refuse(operation, name,
                        " must have 4 dimensions [batch, heads, length, "
                        "head_dim], got ",
                        tensor.dim());
    }
    dtype_of(operation, tensor);
    if (tensor.scalar_type() != q.scalar_type()) {
      attention::refuse(operation, "q, k and v must have one dtype, got ",
                        c10::toString(q.scalar_type()), " and ",
                        c10::toString(tensor.scalar_type()), " for ", name);
    }
    if (tensor.device() != q.device()) {
      attention::refuse(operation, "q, k and v must be on one device, got ",
                        q.device().str(), " and ", tensor.device().str(),
                        " for ", name);
    }
  }
}

Problem checked_problem(const char* operation,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        double scale,
                        int64_t causal) {
  check_tensors(operation, q, k, v);
  const Shapes<int64_t> shapes{sizes_of(q), sizes_of(k), sizes_of(v)};
  attention::check_shapes(operation, shapes, scale, causal);
  const DType dtype = dtype_of(operation, q);
  const std::string reason =
      attention::unsupported_reason(dtype, device_of(operation, q).limits());
  if (!reason.empty()) {
    throw Error(ErrorKind::unsupported,
                std::string("[") + operation + "] " + reason);
  }
  return attention::make_problem(shapes, dtype, scale, causal);
}

void check_grad_out(const Tensor& grad_out, const Tensor& q, const Tensor& v) {
  bool is_right = grad_out.dim() == 4 &&
                  grad_out.scalar_type() == q.scalar_type() &&
                  grad_out.device() == q.device();
  for (int axis = 0; is_right && axis < 4; ++axis) {
    const Tensor& like = axis == 3 ? v : q;
    is_right = grad_out.sym_size(axis) == like.sym_size(axis);
  }
  if (is_right) return;
  attention::refuse(
      kBackward, "grad_out must be ", c10::toString(q.scalar_type()), " on ",
      q.device().str(), " of shape (", q.sym_size(0), ", ", q.sym_size(1), ", ",
      q.sym_size(2), ", ", v.sym_size(3), "), got ",
      c10::toString(grad_out.scalar_type()), " on ", grad_out.device().str(),
      " of shape ", grad_out.sym_sizes());
}

std::tuple<Tensor, Tensor> forward(const Tensor& q_in,
                                   const Tensor& k_in,
                                   const Tensor& v_in,
                                   double scale,
                                   int64_t causal) {
  const Problem problem =
      checked_problem(kForward, q_in, k_in, v_in, scale, causal);
  Tensor out = at::empty(
      {problem.batch, problem.heads_q, problem.len_q, problem.head_dim_v},
      q_in.options());
  Tensor lse = at::empty({problem.batch, problem.heads_q, problem.len_q},
                         q_in.options().dtype(at::kFloat));
  if (out.numel() == 0) return {out, lse};
  if (problem.len_kv == 0) {  // every row sees nothing
    return {out.zero_(), lse.fill_(-std::numeric_limits<float>::infinity())};
  }
  const Tensor q = with_unit_last_stride(q_in);
  const Tensor k = with_unit_last_stride(k_in);
  const Tensor v = with_unit_last_stride(v_in);
  attention::Tensors tensors;
  tensors.q = layout_of(kForward, q);
  tensors.k = layout_of(kForward, k);
  tensors.v = layout_of(kForward, v);
  tensors.out = layout_of(kForward, out);
  tensors.lse = buffer_view(kForward, lse);
  device::Device& device = device_of(kForward, q);
  attention::Plan plan;
  attention::plan_forward(device, problem, tensors, plan);
  device.submit(plan.launches);
  const int64_t call = next_forward_call();
  log_call("FWD", call, problem, plan);
  log_tensors("FWD", call, plan,
              !q.is_same(q_in) + !k.is_same(k_in) + !v.is_same(v_in));
  return {out, lse};
}

std::tuple<Tensor, Tensor> forward_meta(const Tensor& q,
                                        const Tensor& k,
                                        const Tensor& v,
                                        double scale,
                                        int64_t causal) {
  check_tensors(kForward, q, k, v);
  attention::check_shapes(
      kForward, Shapes<c10::SymInt>{sym_sizes(q), sym_sizes(k), sym_sizes(v)},
      scale, causal);
  return {at::empty_symint(
              {q.sym_size(0), q.sym_size(1), q.sym_size(2), v.sym_size(3)},
              q.options()),
          at::empty_symint({q.sym_size(0), q.sym_size(1), q.sym_size(2)},
                           q.options().dtype(at::kFloat))};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// dq, dk and dv that output_mask asks for; dk and dv come together.
Gradients empty_gradients(const Tensor& q,
                          const Tensor& k,
                          const Tensor& v,
                          std::array<bool, 3> output_mask) {
  const bool has_dkv = output_mask[1] || output_mask[2];
  const auto make = [](const Tensor& like, bool is_wanted) {
    return is_wanted ? at::empty_symint(like.sym_sizes(), like.options())
                     : Tensor();
  };
  return {make(q, output_mask[0]), make(k, has_dkv), make(v, has_dkv)};
}

Gradients backward(const Tensor& grad_out_in,
                   const Tensor& q_in,
                   const Tensor& k_in,
                   const Tensor& v_in,
                   const Tensor& out_in,
                   const Tensor& lse_in,
                   double scale,
                   int64_t causal,
                   std::array<bool, 3> output_mask) {
  const Problem problem =
      checked_problem(kBackward, q_in, k_in, v_in, scale, causal);
  check_grad_out(grad_out_in, q_in, v_in);
  Gradients gradients = empty_gradients(q_in, k_in, v_in, output_mask);
  auto& [dq, dk, dv] = gradients;
  if (q_in.numel() == 0 || k_in.numel() == 0) {  // no score: no gradient
    for (Tensor* gradient : {&dq, &dk, &dv}) {
      if (gradient->defined()) gradient->zero_();
    }
    return gradients;
  }
  const Tensor q = with_unit_last_stride(q_in);
  const Tensor k = with_unit_last_stride(k_in);
  const Tensor v = with_unit_last_stride(v_in);
  const Tensor grad_out = with_unit_last_stride(grad_out_in);
  const Tensor out = with_unit_last_stride(out_in);
  const Tensor lse = lse_in.contiguous();
  const Tensor stats = at::empty(
      {problem.batch, problem.heads_q, problem.len_q, 2}, lse.options());
  attention::Tensors tensors;
  tensors.q = layout_of(kBackward, q);
  tensors.k = layout_of(kBackward, k);
  tensors.v = layout_of(kBackward, v);
  tensors.out = layout_of(kBackward, out);
  tensors.grad_out = layout_of(kBackward, grad_out);
  tensors.lse = buffer_view(kBackward, lse);
  tensors.stats = buffer_view(kBackward, stats);
  if (dq.defined()) tensors.dq = layout_of(kBackward, dq);
  if (dk.defined()) {
    tensors.dk = layout_of(kBackward, dk);
    tensors.dv = layout_of(kBackward, dv);
  }
  device::Device& device = device_of(kBackward, q);
  attention::Plan plan;
  attention::plan_backward(device, problem, tensors, plan);
  device.submit(plan.launches);
  const int64_t call = next_backward_call();
  log_call("BWD", call, problem, plan);
  log_tensors("BWD", call, plan,
              !q.is_same(q_in) + !k.is_same(k_in) + !v.is_same(v_in) +
                  !grad_out.is_same(grad_out_in) + !out.is_same(out_in));
  return gradients;
}

Gradients backward_meta(const Tensor& grad_out,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        const Tensor& /*out*/,
                        const Tensor& /*lse*/,
                        double scale,
                        int64_t causal,
                        std::array<bool, 3> output_mask) {
  check_tensors(kBackward, q, k, v);
  attention::check_shapes(
      kBackward, Shapes<c10::SymInt>{sym_sizes(q), sym_sizes(k), sym_sizes(v)},
      scale, causal);
  check_grad_out(grad_out, q, v);
  return empty_gradients(q, k, v, output_mask);
}

std::tuple<Tensor, Tensor> call_forward(const Tensor& q,
                                        const Tensor& k,
                                        const Tensor& v,
                                        double scale,
                                        int64_t causal) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("orchard_ops::forward", "")
                             .typed<decltype(forward)>();
  return op.call(q, k, v, scale, causal);
}

Gradients call_backward(const Tensor& grad_out,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        const Tensor& out,
                        const Tensor& lse,
                        double scale,
                        int64_t causal,
                        std::array<bool, 3> output_mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("orchard_ops::backward", "")
                             .typed<decltype(backward)>();
  return op.call(grad_out, q, k, v, out, lse, scale, causal, output_mask);
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Carries the first gradients and refuses second ones in clear words.
struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static variable_list forward(AutogradContext* /*context*/,
                               const Tensor& grad_out,
                               const Tensor& q,
                               const Tensor& k,
                               const Tensor& v,
                               const Tensor& out,
                               const Tensor& lse,
                               double scale,
                               int64_t causal,
                               std::array<bool, 3> output_mask) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto [dq, dk, dv] =
        call_backward(grad_out, q, k, v, out, lse, scale, causal, output_mask);
    variable_list wanted;  // a custom function cannot return undefined ones
    for (const Tensor& gradient : {dq, dk, dv}) {
      if (gradient.defined()) wanted.push_back(gradient);
    }
    return wanted;
  }

  static variable_list backward(AutogradContext* /*context*/,
                                const variable_list& /*grads*/) {
    throw Error(ErrorKind::unsupported,
                "[flash_attention] gradients of gradients (double backward) "
                "are not implemented: leave out create_graph=True, or use "
                "torch.nn.functional.scaled_dot_product_attention with "
                "torch.nn.attention's math backend for this call");
  }
};

struct ForwardFunction : torch::autograd::Function<ForwardFunction> {
  static variable_list forward(AutogradContext* context,
                               const Tensor& q,
                               const Tensor& k,
                               const Tensor& v,
                               double scale,
                               int64_t causal) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [out, lse] = call_forward(q, k, v, scale, causal);
    context->save_for_backward({q, k, v, out, lse});
    context->saved_data["scale"] = scale;
    context->saved_data["causal"] = causal;
    context->mark_non_differentiable({lse});
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context,
                                const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    std::array<bool, 3> output_mask{};
    for (size_t i = 0; i < 3; ++i) {
      output_mask[i] = context->needs_input_grad(i);
    }
    if (!grads[0].defined()) return variable_list(5);
    auto [dq, dk, dv] =
        call_backward(grads[0], saved[0], saved[1], saved[2], saved[3],
                      saved[4], context->saved_data["scale"].toDouble(),
                      context->saved_data["causal"].toInt(), output_mask);
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> forward_autograd(const Tensor& q,
                                            const Tensor& k,
                                            const Tensor& v,
                                            double scale,
                                            int64_t causal) {
  auto outputs = ForwardFunction::apply(q, k, v, scale, causal);
  return {outputs[0], outputs[1]};
}

Gradients backward_autograd(const Tensor& grad_out,
                            const Tensor& q,
                            const Tensor& k,
                            const Tensor& v,
                            const Tensor& out,
                            const Tensor& lse,
                            double scale,
                            int64_t causal,
                            std::array<bool, 3> output_mask) {
  const bool is_recorded =
      at::GradMode::is_enabled() &&
      (grad_out.requires_grad() || q.requires_grad() || k.requires_grad() ||
       v.requires_grad() || out.requires_grad());
  if (!is_recorded) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad_out, q, k, v, out, lse, scale, causal,
                         output_mask);
  }
  const auto outputs = BackwardFunction::apply(grad_out, q, k, v, out, lse,
                                               scale, causal, output_mask);
  auto next = outputs.begin();
  Gradients gradients;
  auto& [dq, dk, dv] = gradients;
  if (output_mask[0]) dq = *next++;
  if (output_mask[1] || output_mask[2]) {
    dk = *next++;
    dv = *next++;
  }
  return gradients;
}

std::string supports(const Tensor& q,
                     const Tensor& k,
                     const Tensor& v,
                     double scale,
                     int64_t causal) {
  try {
    checked_problem("supports", q, k, v, scale, causal);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::tuple<std::string, int64_t, int64_t, std::string> describe_storage(
    const Tensor& tensor) {
  StorageInfo info = storage_info(tensor);
  return {info.mode, info.length_bytes, info.offset_bytes, info.device_name};
}

std::tuple<int64_t, int64_t, int64_t, int64_t> call_counts() {
  const Counts now = counts();
  return {now.forward, now.backward, now.copies, now.bytes_copied};
}

// Waits for MPS and reports what failed there; elsewhere submit() has waited.
void synchronize() {
#ifdef ORCHARD_WITH_METAL
  synchronize_mps();
#endif
}

}  // namespace

TORCH_LIBRARY(orchard_ops, m) {
  m.def(
      "forward(Tensor q, Tensor k, Tensor v, float scale, int causal) -> "
      "(Tensor out, Tensor lse)");
  m.def(
      "backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor lse, float scale, int causal, "
      "bool[3] output_mask=[True, True, True]) -> (Tensor, Tensor, Tensor)");
  // These only report: one function for every key.
  m.def(
      "supports(Tensor q, Tensor k, Tensor v, float scale, int causal) -> str",
      supports);
  m.def("describe_storage(Tensor tensor) -> (str, int, int, str)",
        describe_storage);
  m.def("call_counts() -> (int, int, int, int)", call_counts);
  m.def("reset_call_counts() -> ()", reset_counts);
  m.def("synchronize() -> ()", synchronize);
}

TORCH_LIBRARY_IMPL(orchard_ops, PrivateUse1, m) {
  m.impl("forward", forward);
  m.impl("backward", backward);
}

#ifdef ORCHARD_WITH_METAL
TORCH_LIBRARY_IMPL(orchard_ops, MPS, m) {
  m.impl("forward", forward);
  m.impl("backward", backward);
}
#endif

TORCH_LIBRARY_IMPL(orchard_ops, Meta, m) {
  m.impl("forward", forward_meta);
  m.impl("backward", backward_meta);
}

TORCH_LIBRARY_IMPL(orchard_ops, Autograd, m) {
  m.impl("forward", forward_autograd);
  m.impl("backward", backward_autograd);
}

}  // namespace orchard::torch_ops
