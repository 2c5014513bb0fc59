"""Rows of a sequence: cut for the ranks, put together again, and their positions."""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._arguments.checks import check_is_tensor, count_of
from .._errors import InvalidProblemError
from ._layout import Layout, local_length, pieces, placed
from ._problem import sum_dtype
from ._transport import Link

__all__ = ["positions", "shard", "unshard"]


def shard(
    x: Tensor, group: Any = None, dim: int = 2, layout: Layout = "zigzag"
) -> Tensor:
    """Return this rank's rows of a tensor that every rank holds whole.

    Equals ``torch.cat([x.narrow(dim, b, e - b) for b, e in pieces(...)], dim)``; a view
    where the rows touch.  Differentiable: x's gradient on a rank is that of its own
    rows, and the sum over ranks (`torch.distributed.all_reduce`, or what DDP does for
    parameters) is that of all.

    Args:
        x: any shape, dtype and device.
        group: the process group; None for all.
        dim: the dimension of rows.
        layout: which rows a rank has, as `pieces` says.

    Raises:
        InvalidProblemError: there is no such dimension or layout, or this process is
            not in the group.
    """
    name = "distributed.shard"
    link = Link(name, group)
    dim = _dimension(name, x, dim)
    parts = [
        x.narrow(dim, begin, end - begin)
        for begin, end in pieces(x.size(dim), link.size, link.rank, layout)
    ]
    if not parts:
        return x.narrow(dim, 0, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def unshard(
    x: Tensor,
    length: int,
    group: Any = None,
    dim: int = 2,
    layout: Layout = "zigzag",
) -> Tensor:
    """Return all rows, on every rank, of a tensor of which each holds its own.

    The inverse of `shard`.  Differentiable: x's gradient is the sum of all ranks'
    gradients of its rows, so that a loss of which each rank computes its part has the
    right one; where every rank computes the whole loss, divide by the ranks.

    Args:
        x: this rank's rows; any dtype and device, and the same shape on every rank but
            for the rows.
        length: rows of the whole.
        group: the process group; None for all.
        dim: the dimension of rows.
        layout: as for `shard`.

    Raises:
        InvalidProblemError: x does not have this rank's number of rows.
        PeerError: another rank ended, hangs or never made the call.
    """
    name = "distributed.unshard"
    link = Link(name, group)
    dim = _dimension(name, x, dim)
    length = count_of(name, "length", length, "it counts the rows of the whole")
    wanted = local_length(length, link.size, link.rank, layout)
    if x.size(dim) != wanted:
        raise InvalidProblemError(
            f"[{name}] expected {wanted} rows in dimension {dim} on rank {link.rank}, "
            f"as {layout} cuts {length} for {link.size} ranks, got {x.size(dim)}; pass "
            "the whole length, and what shard returned"
        )
    apply: Callable[..., Tensor] = _Unshard.apply  # has no types
    return apply(x, length, link, dim, layout)


def positions(
    length: int,
    group: Any = None,
    layout: Layout = "zigzag",
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the positions in the whole of this rank's rows, as rotary embeddings need.

    Equals ``shard(torch.arange(length), dim=0)``.

    Args:
        length: rows of the whole.
        group: the process group; None for all.
        layout: as for `shard`.
        device: of the result.

    Returns:
        ``[rows]`` int64.
    """
    name = "distributed.positions"
    link = Link(name, group)
    length = count_of(name, "length", length, "it counts the rows of the whole")
    found = pieces(length, link.size, link.rank, layout)
    parts = [torch.arange(begin, end, device=device) for begin, end in found]
    return torch.cat([torch.arange(0, device=device), *parts])


class _Unshard(torch.autograd.Function):
    """All gather; its backward sums the ranks' gradients and cuts them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, length: int, link: Link, dim: int, layout: Layout
    ) -> Tensor:
        ctx.given = length, link, dim, layout
        rows = x.movedim(dim, 0)
        link.for_purpose("unshard")
        counts = [
            local_length(length, link.size, rank, layout) for rank in range(link.size)
        ]
        one = math.prod(rows.shape[1:])
        flat = rows.to(link.place(x.device)).contiguous().view(-1)
        blocks = link.gathered(flat, [count * one for count in counts])
        found = rows.new_empty((length, *rows.shape[1:]))
        for rank, block in enumerate(blocks):
            own = block.to(x.device).view(counts[rank], *rows.shape[1:])
            for piece in placed(pieces(length, link.size, rank, layout)):
                found[piece.begin : piece.end] = own[piece.rows]
        return found.movedim(0, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        length, link, dim, layout = ctx.given
        rows = grad.movedim(dim, 0)
        link.for_purpose("unshard")
        parts = []
        for rank in range(link.size):
            held = pieces(length, link.size, rank, layout)
            parts.append(torch.cat([rows[:0], *(rows[b:e] for b, e in held)]))
        found = torch.stack(link.scattered(parts)).to(sum_dtype(grad)).sum(0)
        return found.to(grad.dtype).movedim(0, dim), None, None, None, None


def _dimension(name: str, x: Tensor, dim: int) -> int:
    check_is_tensor(name, "x", x)
    dim = count_of(name, "dim", dim, "pass the dimension of the rows")
    if not -x.dim() <= dim < x.dim():
        raise InvalidProblemError(
            f"[{name}] expected a dimension of a tensor of shape {list(x.shape)}, got "
            f"{dim}; pass the one of the rows"
        )
    return dim % x.dim()
