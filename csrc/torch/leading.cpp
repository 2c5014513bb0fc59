// csrc/torch/leading.cpp: see leading.h.
#include "torch/leading.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "torch/call.h"

namespace orchard::torch_ops {
namespace {

using at::Tensor;
using attention::refuse;
using Sizes = std::vector<c10::SymInt>;

constexpr int64_t kRank = 4;

// The rank that all get, those without heads included.
int64_t common_rank(const char* operation, const Call& call) {
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  if (std::min({q.dim(), k.dim(), v.dim()}) < 2) {
    refuse(operation,
           "expected q, k and v of shape [..., length, head_dim], got shapes ",
           q.sym_sizes(), ", ", k.sym_sizes(), ", ", v.sym_sizes(),
           "; add dimensions with unsqueeze");
  }
  return std::max({q.dim(), k.dim(), v.dim()});
}

void check_mask_rank(const char* operation, const Call& call, int64_t rank) {
  if (!call.mask.defined() || call.mask.dim() <= rank) return;
  refuse(
      operation, "expected attn_mask to have at most ", rank,
      " dimensions like q, got shape ", call.mask.sym_sizes(),
      "; it must broadcast to ",
      rank == 3 ? "[batch, len_q, len_kv]" : "[batch, heads_q, len_q, len_kv]");
}

Tensor with_rank(Tensor tensor, int64_t rank) {
  while (tensor.dim() < rank) tensor = tensor.unsqueeze(0);
  return tensor;
}

c10::SymInt broadcast(const c10::SymInt& a, const c10::SymInt& b) {
  return a == 1 ? b : a;
}

// What the leading dimensions become: of q and the results, and of k and v.
// Grouped heads stay as they are: each key head serves several of q.
struct Leading {
  Sizes q, kv;
};

Leading leading_of(const Call& call, int64_t rank) {
  Leading sizes;
  for (int64_t axis = 0; axis < rank - 2; ++axis) {
    const c10::SymInt q = call.q.sym_size(axis);
    const c10::SymInt kv =
        broadcast(call.k.sym_size(axis), call.v.sym_size(axis));
    const bool is_head = rank >= kRank && axis == rank - 3;
    sizes.q.push_back(broadcast(q, kv));
    sizes.kv.push_back(is_head ? kv : sizes.q.back());
  }
  return sizes;
}

// The tensor itself where its sizes do not fit: the check of all calls says so.
Tensor expand_to(const Tensor& tensor, const Sizes& leading) {
  Sizes sizes = leading;
  bool is_as_wanted = true;
  for (size_t axis = 0; axis < leading.size(); ++axis) {
    const c10::SymInt size = tensor.sym_size(static_cast<int64_t>(axis));
    if (size == leading[axis]) continue;
    is_as_wanted = false;
    if (size != 1) return tensor;
  }
  if (is_as_wanted) return tensor;
  for (const int64_t axis : {-2, -1}) sizes.push_back(tensor.sym_size(axis));
  return tensor.expand_symint(sizes);
}

// [batch, heads, ...] of at least three dimensions; of three, without heads.
Tensor merge(const char* operation, const Tensor& tensor, const Sizes& wanted) {
  const auto rank = tensor.dim();
  if (rank == kRank) return tensor;
  if (rank < kRank) return with_rank(tensor, 3).unsqueeze(1);
  c10::SymInt batch = 1;
  for (int64_t axis = 0; axis < rank - 3; ++axis) {
    if (tensor.sym_size(axis) != wanted[static_cast<size_t>(axis)]) {
      refuse(operation, "expected the leading dimensions to broadcast to ",
             c10::SymIntArrayRef(wanted), ", got shape ", tensor.sym_sizes(),
             "; expand or slice them");
    }
    batch *= tensor.sym_size(axis);
  }
  return tensor.reshape_symint(
      {batch, tensor.sym_size(-3), tensor.sym_size(-2), tensor.sym_size(-1)});
}

// A mask that is one for the whole batch stays so: no copy.
Tensor merge_mask(const char* operation, const Tensor& mask, Sizes wanted) {
  if (mask.dim() <= kRank) return merge(operation, mask, wanted);
  bool is_shared = true;
  for (int64_t axis = 0; axis < mask.dim() - 3; ++axis) {
    is_shared = is_shared && mask.sym_size(axis) == 1;
  }
  if (is_shared) return mask.flatten(0, mask.dim() - 4);
  wanted.back() = mask.sym_size(-3);  // heads, which the check looks at
  return merge(operation, expand_to(mask, wanted), wanted);
}

}  // namespace

bool has_other_dims(const Call& call) {
  const Tensor &q = call.q, &k = call.k, &v = call.v;
  if (q.dim() != kRank || k.dim() != kRank || v.dim() != kRank ||
      (call.mask.defined() && call.mask.dim() != kRank)) {
    return true;
  }
  if (call.is_packed()) return false;
  const c10::SymInt batch = q.sym_size(0), heads = k.sym_size(1);
  return k.sym_size(0) != batch || v.sym_size(0) != batch ||
         v.sym_size(1) != heads || (q.sym_size(1) == 1 && heads != 1);
}

void fold_leading(const char* operation, Call& call) {
  const int64_t rank = common_rank(operation, call);
  check_mask_rank(operation, call, rank);
  for (Tensor* tensor : {&call.q, &call.k, &call.v}) {
    *tensor = with_rank(*tensor, rank);
  }
  const Leading sizes = leading_of(call, rank);
  call.q = merge(operation, expand_to(call.q, sizes.q), sizes.q);
  call.k = merge(operation, expand_to(call.k, sizes.kv), sizes.kv);
  call.v = merge(operation, expand_to(call.v, sizes.kv), sizes.kv);
  if (call.mask.defined()) {
    call.mask = merge_mask(operation, with_rank(call.mask, rank), sizes.q);
  }
  call.is_folded = rank != kRank;
  if (call.is_folded) call.leading = sizes.q;
}

Tensor unfold_leading(const Call& call, const Tensor& result) {
  Sizes sizes = call.leading;
  for (int64_t axis = 2; axis < result.dim(); ++axis) {
    sizes.push_back(result.sym_size(axis));
  }
  return result.view_symint(sizes);
}

}  // namespace orchard::torch_ops
