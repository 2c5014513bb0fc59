// csrc/torch/leading.h: tensors of any number of leading dimensions, as
// torch.nn.functional.scaled_dot_product_attention takes them, become the four
// that kernels know: [batch, heads, length, size].
#pragma once

#include <ATen/core/Tensor.h>

namespace orchard::torch_ops {

struct Call;

// Whether q, k, v or the mask are not as the kernels need them: of another
// rank, or to be broadcast.
bool has_other_dims(const Call& call);

// Broadcasts the leading dimensions and merges all but the heads into one.
// Views, but where five dimensions or more do not merge without a copy.
void fold_leading(const char* operation, Call& call);

// A result of a folded call as the caller wants it back.
at::Tensor unfold_leading(const Call& call, const at::Tensor& result);

}  // namespace orchard::torch_ops
