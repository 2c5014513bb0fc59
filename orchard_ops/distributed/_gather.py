"""All keys and values on every rank, which attends to them at once.

They are gathered once and kept for backward, whose sums go back to the rows' ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._plan import Gradients, Plan, whole
from ._problem import (
    Backward,
    Forward,
    Kept,
    OutputGradients,
    kept_output,
    pack,
    unpack,
)

__all__ = ["assembled", "backward", "forward", "rows_of"]


def forward(
    plan: Plan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor, Kept]:
    """Return output and log-sum-exp of this rank's rows, and what backward needs."""
    k, v = _gathered(plan, k, v)
    rows = Forward(q, plan.held(), mask, plan.options)
    rows.add(k, v, whole(plan.length))
    out, lse = rows.result(v.size(-1), sinks)
    return out.to(q.dtype), lse, Kept(q, k, v, mask, sinks, kept_output(out, q), lse)


def backward(plan: Plan, kept: Kept, grads: OutputGradients) -> Gradients:
    """Return the gradients of this rank's rows; that of sinks is summed over ranks."""
    rows = Backward(kept, plan.held(), plan.options, grads)
    dk, dv = (torch.zeros_like(each, dtype=rows.dq.dtype) for each in (kept.k, kept.v))
    rows.add(kept.k, kept.v, whole(plan.length), dk, dv)
    link = plan.linked("backward")
    parts = link.scattered(
        [
            pack(rows_of(plan, rank, dk), rows_of(plan, rank, dv))
            for rank in range(link.size)
        ]
    )
    shapes = [_shape(plan, link.rank, each) for each in (dk, dv)]
    dk, dv = unpack(torch.stack(parts).sum(0), *shapes)
    return rows.dq, dk, dv, rows.dmask, plan.sinks_gradient(kept, grads)


def _gathered(plan: Plan, k: Tensor, v: Tensor) -> list[Tensor]:
    """Return the k and v of the whole sequence, in its order."""
    link = plan.linked("forward")
    shapes = [[_shape(plan, rank, x) for x in (k, v)] for rank in range(link.size)]
    own = pack(k, v).to(link.place(k.device))
    parts = link.gathered(own, [sum(map(math.prod, each)) for each in shapes])
    blocks = [unpack(part.to(k.device), *each) for part, each in zip(parts, shapes)]
    return [assembled(plan, each) for each in zip(*blocks)]


def assembled(plan: Plan, blocks: Sequence[Tensor]) -> Tensor:
    """Return the rows of all ranks in the sequence's order, rows before the last."""
    found = blocks[0].new_empty((*blocks[0].shape[:2], plan.length, blocks[0].size(-1)))
    for rank, block in enumerate(blocks):
        for piece in plan.held(rank):
            found[:, :, piece.begin : piece.end] = block[:, :, piece.rows]
    return found


def rows_of(plan: Plan, rank: int, tensor: Tensor) -> Tensor:
    """Return the rows that a rank holds of a tensor of the whole sequence."""
    parts = [tensor[:, :, piece.begin : piece.end] for piece in plan.held(rank)]
    return torch.cat(parts, 2) if parts else tensor[:, :, :0]


def _shape(plan: Plan, rank: int, tensor: Tensor) -> torch.Size:
    return torch.Size((*tensor.shape[:2], plan.rows(rank), tensor.size(-1)))
