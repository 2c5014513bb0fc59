// csrc/torch/verify/exact.cpp: see exact.h.
#include "torch/verify/exact.h"

#include <ATen/ATen.h>

#include <vector>

#include "torch/composite.h"
#include "torch/packed.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;

Tensor exactly(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  const Tensor here = tensor.cpu();
  return here.is_floating_point() ? here.to(at::kDouble) : here;
}

Call exactly(const Call& call) {
  auto tensors = call.tensors();
  for (Tensor& tensor : tensors) tensor = exactly(tensor);
  return Call::of(tensors, call.options().toTupleRef().elements());
}

// Sums what a key head has of each of its query heads.
Tensor sum_groups(const Tensor& gradient, int64_t heads_kv) {
  return gradient.unflatten(1, {heads_kv, -1}).sum(2);
}

// d softcap * tanh(x / softcap) / dx.
Tensor slope_of_softcap(const Call& call) {
  const double softcap = call.settings.softcap;
  const Tensor scores = at::matmul(call.q, call.k.transpose(-1, -2));
  const Tensor bent = at::tanh(scores * (call.settings.scale / softcap));
  return 1.0 - bent * bent;
}

ExactResults attend_one(const Call& given,
                        const Tensor& grad_out,
                        const Tensor& grad_lse,
                        int64_t first_batch) {
  const Call call = with_repeated_heads(given);
  const auto [weights, lse] = softmax_weights(call);
  const double p = call.settings.dropout_p;
  Tensor factor = at::ones_like(weights);  // what dropout makes of a weight
  if (p > 0.0) {
    factor = keep_mask(call, weights.sym_sizes(), first_batch)
                 .to(at::kDouble)
                 .mul_(65536.0 / (65536.0 - attention::drop_below(p)));
  }
  ExactResults results;
  results.out = at::matmul(weights * factor, call.v);
  results.lse = lse;
  if (!grad_out.defined()) return results;
  const Tensor dweights =
      at::matmul(grad_out, call.v.transpose(-1, -2)) * factor;
  Tensor along = (dweights * weights).sum(-1);
  if (grad_lse.defined()) along = along - grad_lse;
  Tensor dscores = weights * (dweights - along.unsqueeze(-1));
  if (call.has_bias()) results.dbias = dscores.sum_to_size(call.mask.sizes());
  if (call.settings.softcap > 0.0) dscores = dscores * slope_of_softcap(call);
  dscores = dscores * call.settings.scale;
  const int64_t heads_kv = given.k.size(1);
  results.dq = at::matmul(dscores, call.k);
  results.dk =
      sum_groups(at::matmul(dscores.transpose(-1, -2), call.q), heads_kv);
  results.dv = sum_groups(
      at::matmul((weights * factor).transpose(-1, -2), grad_out), heads_kv);
  return results;
}

Tensor rows_of(const Tensor& tensor, const Rows& rows) {
  if (!tensor.defined()) return {};
  return tensor.slice(2, rows.begin, rows.end);
}

}  // namespace

ExactResults attend_exactly(const Call& given,
                            const Tensor& given_grad_out,
                            const Tensor& given_grad_lse) {
  const Call call = exactly(given);
  const Tensor grad_out = exactly(given_grad_out);
  const Tensor grad_lse = exactly(given_grad_lse);
  if (!call.is_packed()) return attend_one(call, grad_out, grad_lse, 0);
  const std::vector<int64_t> starts_q = numbers_in(call.starts_q);
  const std::vector<int64_t> starts_kv = numbers_in(call.starts_kv);
  std::vector<ExactResults> each;
  for (size_t i = 0; i + 1 < starts_q.size(); ++i) {
    const Sequence one = sequence_of(call, starts_q, starts_kv, i);
    each.push_back(attend_one(one.call, rows_of(grad_out, one.q),
                              rows_of(grad_lse, one.q),
                              static_cast<int64_t>(i)));
  }
  ExactResults all;
  for (Tensor ExactResults::* const member :
       {&ExactResults::out, &ExactResults::lse, &ExactResults::dq,
        &ExactResults::dk, &ExactResults::dv}) {
    std::vector<Tensor> parts;
    for (const ExactResults& one : each) parts.push_back(one.*member);
    if (parts[0].defined()) all.*member = at::cat(parts, 2);
  }
  return all;
}

DecodeOutputs decode_exactly(const DecodeStep& step,
                             const DecodeOutputs& like) {
  DecodeStep exact = step;
  for (Tensor* tensor :
       {&exact.q, &exact.k, &exact.v, &exact.lengths, &exact.table,
        &exact.cache_rows, &exact.left_pads, &exact.slopes, &exact.sinks}) {
    *tensor = exactly(*tensor);
  }
  const auto& [out, lse] = like;
  DecodeOutputs outputs{at::empty(out.sizes(), exact.q.options()),
                        at::empty(lse.sizes(), exact.q.options())};
  decode_on_cpu(exact, outputs);
  return outputs;
}

}  // namespace orchard::torch_ops
