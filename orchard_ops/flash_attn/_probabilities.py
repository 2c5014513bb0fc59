"""What ``return_attn_probs`` returns third."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .. import _native
from .._arguments import Arguments
from .._arguments.philox import keep_mask

__all__ = ["signed_probabilities"]


@torch.no_grad()
def signed_probabilities(arguments: Arguments) -> Tensor:
    """Return S_dmask: the softmax's weights, negative where dropout dropped one.

    For tests alone: PyTorch's own operators compute all of it anew, and hold all
    scores in memory.  Without dropout the functions return an empty tensor, as Dao's.

    Returns:
        ``[batch, heads_q, len_q, len_k]`` in q's dtype, the weights before dropout and
        its scaling; of packed sequences ``[sequences, heads_q, max_seqlen_q,
        max_seqlen_k]``, zeros beyond a sequence's lengths.
    """
    if arguments.cu_seqlens_q is None or arguments.cu_seqlens_k is None:
        return _signed(arguments, 0)
    ends = zip(arguments.cu_seqlens_q.tolist(), arguments.cu_seqlens_k.tolist())
    start_q, start_k = next(ends)
    longest = (arguments.max_seqlen_q, arguments.max_seqlen_k)
    results = []
    for index, (end_q, end_k) in enumerate(ends):
        slopes = arguments.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index]
        part = arguments._replace(
            q=arguments.q[:, :, start_q:end_q],
            k=arguments.k[:, :, start_k:end_k],
            v=arguments.v[:, :, start_k:end_k],
            alibi_slopes=slopes,
            cu_seqlens_q=None,
            cu_seqlens_k=None,
        )
        padding = (0, longest[1] - end_k + start_k, 0, longest[0] - end_q + start_q)
        results.append(functional.pad(_signed(part, index), padding))
        start_q, start_k = end_q, end_k
    if not results:
        return arguments.q.new_empty(0, arguments.q.size(1), *longest)
    return torch.cat(results)


def _signed(arguments: Arguments, first_batch: int) -> Tensor:
    weights = _native.ops.softmax_weights(*arguments)
    assert arguments.seed is not None
    kept = keep_mask(arguments.seed, arguments.dropout_p, weights.shape, first_batch)
    return torch.where(kept.to(weights.device), weights, -weights).to(arguments.q.dtype)
