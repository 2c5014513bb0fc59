"""Attention on CPU tensors, from PyTorch's own operators.

The kernels are for Apple GPUs; this keeps a model's meaning where there is
none.  ``scaled_dot_product_attention`` does the work where its meaning and
dtypes fit, plain operators do the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attention"]

_TOP_LEFT, _BOTTOM_RIGHT = 1, 2


def attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: int, need_lse: bool
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` for checked 4-D tensors; lse is empty if not needed.

    Arguments as those of ``torch.ops.orchard_ops.forward``.
    """
    if q.size(1) != k.size(1):
        group = q.size(1) // k.size(1)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if causal == _BOTTOM_RIGHT and q.size(2) == k.size(2):
        causal = _TOP_LEFT
    if need_lse or not _sdpa_fits(q, k, v, causal):
        return _plain(q, k, v, scale, causal)
    out = functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal == _TOP_LEFT, scale=scale
    )
    return out, q.new_empty(0, dtype=torch.float32)


def _sdpa_fits(q: Tensor, k: Tensor, v: Tensor, causal: int) -> bool:
    # float16 matrix products on the CPU exist only from PyTorch 2.3 on.
    is_empty = q.numel() == 0 or k.numel() == 0 or v.numel() == 0
    return causal != _BOTTOM_RIGHT and q.dtype != torch.float16 and not is_empty


def _plain(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: int
) -> tuple[Tensor, Tensor]:
    compute = torch.promote_types(q.dtype, torch.float32)
    scores = torch.matmul(q.to(compute), k.to(compute).transpose(-1, -2)) * scale
    keep = _keep(q, k, causal)
    # A row without a key gets scores that softmax can take, and zeros after it,
    # so that neither its output nor its gradients ever see a NaN.
    is_dead = ~keep.any(-1, keepdim=True)
    scores = scores.masked_fill(~(keep | is_dead), float("-inf"))
    weights = torch.softmax(scores, -1).masked_fill(is_dead, 0.0)
    out = torch.matmul(weights, v.to(compute)).to(q.dtype)
    lse = torch.logsumexp(scores.detach(), -1).masked_fill(
        is_dead.squeeze(-1), float("-inf")
    )
    return out, lse.to(torch.float32)


def _keep(q: Tensor, k: Tensor, causal: int) -> Tensor:
    """Return the bool mask [len_q, len_kv] of the pairs that attend."""
    len_q, len_kv = q.size(2), k.size(2)
    if not causal:
        return torch.ones(len_q, len_kv, dtype=torch.bool, device=q.device)
    shift = len_kv - len_q if causal == _BOTTOM_RIGHT else 0
    rows = torch.arange(len_q, device=q.device).unsqueeze(1)
    return torch.arange(len_kv, device=q.device).unsqueeze(0) <= rows + shift
