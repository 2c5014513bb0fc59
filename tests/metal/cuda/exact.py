"""Attention from its definition on the GPU, a few rows at a time.

In float64 it is what results are measured against; in a tensor's own dtype it is
what plain PyTorch operators would give, which tells how much error is natural.
Independent of orchard_ops: nothing here imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

CHUNK = 1 << 27  # scores at a time


@dataclass
class Problem:
    """What is computed; tensors on the GPU, ``[batch, heads, length, head_dim]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    is_causal: bool = False
    window: tuple[int, int] | None = None
    mask: Tensor | None = None  # broadcasts to [batch, heads_q, len_q, len_kv]
    keep: Tensor | None = None  # bool, as the mask: weights that dropout keeps
    keep_scale: float = 1.0

    @property
    def scale(self) -> float:
        """The factor on the scores."""
        return float(self.q.size(-1) ** -0.5)


@dataclass
class Results:
    """What attention and its backward give."""

    out: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor
    dmask: Tensor | None = None

    def items(self) -> list[tuple[str, Tensor]]:
        """Return names and tensors."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, tensor) for name, tensor in pairs if tensor is not None]


def solve(problem: Problem, dtype: torch.dtype) -> Results:
    """Compute in a dtype; sums over rows are kept in float32 or better."""
    p = problem
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    out, dq = (torch.empty_like(t, dtype=dtype) for t in (p.grad_out, p.q))
    dk, dv = (torch.zeros_like(t, dtype=wide) for t in (p.k, p.v))
    has_bias = p.mask is not None and p.mask.is_floating_point()
    dmask = torch.zeros_like(p.mask, dtype=wide) if has_bias else None
    group = p.q.size(1) // p.k.size(1)
    rows = max(1, CHUNK // p.k.size(2))
    for batch in range(p.q.size(0)):
        for head in range(p.q.size(1)):
            at = (batch, head // group)
            for first in range(0, p.q.size(2), rows):
                part = slice(first, min(first + rows, p.q.size(2)))
                found = _solve_rows(p, dtype, batch, head, part, dmask)
                out[batch, head, part], dq[batch, head, part] = found[:2]
                dk[at] += found[2]
                dv[at] += found[3]
    return Results(out, dq, dk.to(dtype), dv.to(dtype), dmask)


def _solve_rows(
    p: Problem,
    dtype: torch.dtype,
    batch: int,
    head: int,
    part: slice,
    dmask: Tensor | None,
) -> tuple[Tensor, ...]:
    """Differentiate some rows of one head; adds to dmask."""
    kv = head // (p.q.size(1) // p.k.size(1))
    sources = (p.q[batch, head, part], p.k[batch, kv], p.v[batch, kv])
    leaves = [t.to(dtype).detach().requires_grad_() for t in sources]
    q, k, v = leaves
    scores = p.scale * (q @ k.T)
    shown = _shown(p, part)
    if p.mask is not None:
        mask = _cut(p.mask, batch, head, part)
        if dmask is None:
            shown = mask if shown is None else shown & mask
        else:
            leaves.append(mask.to(dtype).detach().requires_grad_())
            scores = scores + leaves[-1]
    if shown is not None:
        scores = scores.masked_fill(~shown, -torch.inf)
    weights = torch.softmax(scores, -1)
    if p.keep is not None:
        weights = weights * _cut(p.keep, batch, head, part) * p.keep_scale
    out = weights @ v
    found = torch.autograd.grad(out, leaves, p.grad_out[batch, head, part].to(dtype))
    if dmask is not None:
        _cut(dmask, batch, head, part).add_(found[3])
    return (out.detach(), *found[:3])


def _shown(p: Problem, part: slice) -> Tensor | None:
    """Return what causal mask and window leave of some rows."""
    left, right = p.window or (-1, -1)
    if p.is_causal:
        right = 0
    if left < 0 and right < 0:
        return None
    rows = torch.arange(part.start, part.stop, device=p.q.device).unsqueeze(1)
    ahead = torch.arange(p.k.size(2), device=p.q.device) - rows
    shown = torch.ones_like(ahead, dtype=torch.bool)
    if left >= 0:
        shown &= ahead >= -left
    if right >= 0:
        shown &= ahead <= right
    return shown


def _cut(mask: Tensor, batch: int, head: int, part: slice) -> Tensor:
    """Return a view of a broadcast mask's rows of one head."""
    batch, head = (i if mask.size(d) > 1 else 0 for d, i in enumerate((batch, head)))
    return mask[batch, head, part] if mask.size(2) > 1 else mask[batch, head]
