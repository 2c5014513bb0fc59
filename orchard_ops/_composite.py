"""Attention on CPU tensors, from PyTorch's own operators.

The kernels are for Apple GPUs; this keeps a model's meaning where there is
none.  ``scaled_dot_product_attention`` does the work where it is right
(``_cpu_sdpa``), plain operators, which hold all scores in memory, do the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import Arguments
from ._cpu_sdpa import sdpa_out
from ._philox import keep_mask, keep_scale
from ._tracing import is_compiling

__all__ = ["attention", "repeat_heads", "softmax_weights"]


def attention(
    arguments: Arguments, need_lse: bool, first_batch: int = 0
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` for checked arguments; lse is empty if not needed.

    Args:
        arguments: those of ``torch.ops.orchard_ops.forward``.
        need_lse: whether the caller wants lse.
        first_batch: the number of the first batch entry, for dropout.
    """
    if arguments.cu_seqlens_q is not None and arguments.cu_seqlens_k is not None:
        ends = (arguments.cu_seqlens_q.tolist(), arguments.cu_seqlens_k.tolist())
        return _packed(arguments, ends, need_lse)
    arguments = repeat_heads(arguments)
    out = None if need_lse else _sdpa_out(arguments)
    if out is None:
        return _plain(arguments, first_batch)
    return out, arguments.q.new_empty(0, dtype=torch.float32)


def repeat_heads(arguments: Arguments) -> Arguments:
    """Give every query head a key head and a value head of its own."""
    q, k, v = arguments.q, arguments.k, arguments.v
    if q.size(1) == k.size(1):
        return arguments
    group = q.size(1) // k.size(1)
    return arguments._replace(
        k=k.repeat_interleave(group, 1), v=v.repeat_interleave(group, 1)
    )


def _packed(
    a: Arguments, cu_seqlens: tuple[list[int], list[int]], need_lse: bool
) -> tuple[Tensor, Tensor]:
    """Attend within each packed sequence; tokens of none get 0 and -inf."""
    outs, lses = [], []
    ends = zip(*cu_seqlens)
    start_q, start_k = next(ends)
    for index, (end_q, end_k) in enumerate(ends):
        slopes = a.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index]
        sequence = a._replace(
            q=a.q[:, :, start_q:end_q],
            k=a.k[:, :, start_k:end_k],
            v=a.v[:, :, start_k:end_k],
            alibi_slopes=slopes,
            cu_seqlens_q=None,
            cu_seqlens_k=None,
        )
        out, lse = attention(sequence, need_lse, index)
        outs.append(out)
        lses.append(lse)
        start_q, start_k = end_q, end_k
    rest = [a.q.size(0), a.q.size(1), a.q.size(2) - start_q]
    # Tied to the tensors even where there is no sequence.
    outs.append(a.q.new_zeros(*rest, a.v.size(3)) + a.q[..., :0].sum())
    if not need_lse:
        return torch.cat(outs, 2), a.q.new_empty(0, dtype=torch.float32)
    lses.append(a.q.new_full(rest, float("-inf"), dtype=torch.float32))
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _sdpa_out(a: Arguments) -> Tensor | None:
    """Return what PyTorch's function gives, if it has all that is asked for."""
    has_more = a.softcap or a.dropout_p or a.window_left >= 0 or a.window_right > 0
    if has_more or a.alibi_slopes is not None or a.sinks is not None:
        return None
    is_causal = a.window_right == 0
    if is_causal and a.is_bottom_right and a.q.size(2) != a.k.size(2):
        return None
    return sdpa_out(
        a.q, a.k, a.v, a.attn_mask, a.scale, is_causal, is_traced=is_compiling()
    )


def _plain(a: Arguments, first_batch: int) -> tuple[Tensor, Tensor]:
    weights, lse = softmax_weights(a)
    if a.dropout_p > 0.0 and a.seed is not None:
        batch, heads, len_q, len_kv = weights.shape
        shape = (batch, heads, len_q, len_kv)
        kept = keep_mask(a.seed, a.dropout_p, shape, first_batch)
        weights = weights * kept * keep_scale(a.dropout_p)
    return torch.matmul(weights, a.v.to(weights.dtype)).to(a.q.dtype), lse


def softmax_weights(a: Arguments) -> tuple[Tensor, Tensor]:
    """Return the weights before dropout, in float32 or wider, and lse."""
    scores, keep = _scores(a)
    if a.sinks is not None:  # one more key, whose value is 0
        sinks = a.sinks.to(scores.dtype).view(1, -1, 1, 1)
        sinks = sinks.expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
        keep = torch.cat([keep, sinks != float("-inf")], -1)
    # A row without a key gets scores that softmax can take, and zeros after it,
    # so that neither its output nor its gradients ever see a NaN.
    is_dead = ~keep.any(-1, keepdim=True)
    scores = scores.masked_fill(~keep, float("-inf")).masked_fill(is_dead, 0.0)
    weights = torch.softmax(scores, -1).masked_fill(is_dead, 0.0)
    lse = _log_sum_exp(scores).masked_fill(is_dead.squeeze(-1), float("-inf"))
    return weights[..., : a.k.size(2)], lse.to(torch.float32)


def _log_sum_exp(scores: Tensor) -> Tensor:
    """Return ``torch.logsumexp(scores, -1)``, with a gradient that is a softmax.

    PyTorch's own takes it as exp(score - lse), which is off by the number of keys where
    all scores are so low that lse rounds to them.
    """
    if scores.size(-1) == 0:
        return torch.logsumexp(scores, -1)
    top = scores.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == float("inf"), 0.0)
    return torch.exp(scores - top).sum(-1).log() + top.squeeze(-1)


def _scores(a: Arguments) -> tuple[Tensor, Tensor]:
    """Return the scores with all that is added, and True where they count."""
    # Not promote_types: old compilers do not know it.
    compute = torch.float64 if a.q.dtype == torch.float64 else torch.float32
    q, k = a.q.to(compute), a.k.to(compute)
    scores = torch.matmul(q, k.transpose(-1, -2)) * a.scale
    if a.softcap:
        scores = a.softcap * torch.tanh(scores / a.softcap)
    distance = _distance(a)
    if a.alibi_slopes is not None:
        scores = scores - a.alibi_slopes[..., None, None] * distance.abs()
    keep = torch.ones_like(scores, dtype=torch.bool)
    if a.window_left >= 0:
        keep = keep & (distance <= a.window_left)
    if a.window_right >= 0:
        keep = keep & (distance >= -a.window_right)
    mask = a.attn_mask
    if mask is not None and mask.dtype == torch.bool:
        keep = keep & mask
    elif mask is not None:
        keep = keep & (mask != float("-inf"))
        scores = scores + mask.to(compute)
    return scores, keep


def _distance(a: Arguments) -> Tensor:
    """Return how far each query's position is ahead of each key's."""
    len_q, len_kv = a.q.size(2), a.k.size(2)
    offset = len_kv - len_q if a.is_bottom_right else 0
    rows = torch.arange(len_q, device=a.q.device).unsqueeze(1) + offset
    return rows - torch.arange(len_kv, device=a.q.device)
