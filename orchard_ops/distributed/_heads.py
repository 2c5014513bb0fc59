"""Heads for rows: each rank attends over the whole sequence, for some of the heads.

DeepSpeed Ulysses' exchange (https://arxiv.org/abs/2309.14509).  The tensors that
backward needs are kept as exchanged, so that only gradients cross again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import InvalidProblemError
from .._functions.partial import sink_gradient
from ._gather import assembled, rows_of
from ._plan import Gradients, Plan, whole
from ._problem import (
    Backward,
    Forward,
    Kept,
    Options,
    OutputGradients,
    kept_output,
    pack,
    unpack,
)
from ._transport import Link

__all__ = ["backward", "forward", "require_divisible"]


def require_divisible(name: str, ranks: int, heads_q: int, heads_kv: int) -> None:
    """Raise unless every rank gets as many heads.

    Raises:
        InvalidProblemError: one of the numbers is no multiple of the ranks.
    """
    if heads_q % ranks or heads_kv % ranks:
        raise InvalidProblemError(
            f"[{name}] expected heads_q and heads_kv that {ranks} ranks divide for "
            f"method 'heads', got {heads_q} and {heads_kv}; use method 'ring' or "
            "'all_gather', or a group of fewer ranks"
        )


def forward(
    plan: Plan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor | None, Kept]:
    """Return output and log-sum-exp of this rank's rows, and what backward needs.

    The log-sum-exp does not come back unless the call returns it.
    """
    link = plan.linked("forward")
    q, k, v = _to_heads(plan, link, q, k, v)
    if mask is not None:
        (mask,) = _to_heads(plan, link, mask)
    if sinks is not None:
        sinks = sinks.chunk(link.size)[link.rank]
    rows = Forward(q, whole(plan.length), mask, _options(plan, q))
    rows.add(k, v, whole(plan.length))
    out, lse = rows.result(v.size(-1), sinks)
    results = Kept(q, k, v, mask, sinks, kept_output(out, q), lse)
    (own_out,) = _to_rows(plan, link, out.to(q.dtype))
    if not plan.returns_lse:
        return own_out, None, results
    (own_lse,) = _to_rows(plan, link, lse.unsqueeze(-1))
    return own_out, own_lse.squeeze(-1), results


def backward(plan: Plan, kept: Kept, grads: OutputGradients) -> Gradients:
    """Return the gradients of this rank's rows, and that of all sinks."""
    link = plan.linked("backward")
    (grad_out,) = _to_heads(plan, link, grads.out)
    grad_lse = None
    if grads.lse is not None:
        (grad_lse,) = _to_heads(plan, link, grads.lse.unsqueeze(-1))
        grad_lse = grad_lse.squeeze(-1)
    grads = grads._replace(out=grad_out, lse=grad_lse)
    rows = Backward(kept, whole(plan.length), _options(plan, kept.q), grads)
    dk, dv = (torch.zeros_like(each, dtype=rows.dq.dtype) for each in (kept.k, kept.v))
    rows.add(kept.k, kept.v, whole(plan.length), dk, dv)
    # Each is a whole sum, so that it may be rounded before it crosses.
    sums = [each.to(kept.q.dtype) for each in (rows.dq, dk, dv)]
    dq, dk, dv = _to_rows(plan, link, *sums)
    dmask = rows.dmask
    if dmask is not None:
        (dmask,) = _to_rows(plan, link, dmask)
    return dq, dk, dv, dmask, _sinks_gradient(plan, kept, grads)


def _options(plan: Plan, q: Tensor) -> Options:
    """Return the options of this rank's heads."""
    heads = q.size(1)
    return plan.options.of_heads(plan.link.rank * heads, heads, plan.link.size * heads)


def _to_heads(plan: Plan, link: Link, *tensors: Tensor) -> list[Tensor]:
    """Give up heads for rows.

    Args:
        plan: of the call.
        link: to the other ranks.
        tensors: ``[batch, heads, local, dim]`` of one dtype; one head serves all ranks.

    Returns:
        ``[batch, heads / ranks, length, dim]`` of each.
    """
    parts = [[_heads_of(link, rank, each) for each in tensors] for rank in _ranks(link)]
    shapes = [
        [(*each.shape[:2], plan.rows(rank), each.size(-1)) for each in parts[link.rank]]
        for rank in _ranks(link)
    ]
    found = link.scattered(
        [pack(*each) for each in parts],
        [[sum(map(math.prod, each))] for each in shapes],
    )
    blocks = [unpack(part, *each) for part, each in zip(found, shapes)]
    return [assembled(plan, each) for each in zip(*blocks)]


def _to_rows(plan: Plan, link: Link, *tensors: Tensor) -> list[Tensor]:
    """Give up rows for heads.

    Args:
        plan: of the call.
        link: to the other ranks.
        tensors: ``[batch, heads, length, dim]`` of one dtype.

    Returns:
        ``[batch, heads * ranks, local, dim]`` of each; of what one head serves all
        ranks each rank's part.
    """
    parts = [[rows_of(plan, rank, each) for each in tensors] for rank in _ranks(link)]
    shapes = [each.shape for each in parts[link.rank]]
    found = link.scattered([pack(*each) for each in parts])
    blocks = zip(*(unpack(part, *shapes) for part in found))
    return [torch.cat(each, 1) for each in blocks]


def _heads_of(link: Link, rank: int, tensor: Tensor) -> Tensor:
    return tensor if tensor.size(1) == 1 else tensor.chunk(link.size, 1)[rank]


def _ranks(link: Link) -> range:
    return range(link.size)


def _sinks_gradient(plan: Plan, kept: Kept, grads: OutputGradients) -> Tensor | None:
    """Return the gradient of all sinks, of which each rank has its heads' whole."""
    if kept.sinks is None or not grads.wants_sinks:
        return None
    part = sink_gradient(grads.out, kept.out, kept.lse, kept.sinks, grads.lse)
    link = plan.link.for_purpose("sinks")
    parts = link.gathered(part.to(link.place(part.device)), [part.numel()] * link.size)
    return torch.cat(parts).to(part.device)
