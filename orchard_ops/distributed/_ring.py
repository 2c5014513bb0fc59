"""Ring attention: blocks of keys and values travel from rank to rank.

While a rank works on one block, the next is on its way.  In backward the blocks travel
once more, and the float32 gradients of each follow it and come home last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ._plan import Gradients, Plan
from ._problem import (
    Backward,
    Forward,
    Kept,
    OutputGradients,
    kept_output,
    pack,
    sum_dtype,
    unpack,
)
from ._transport import Message, Transfer

__all__ = ["backward", "forward"]

_BLOCK, _SUMS = 0, 1  # tags


def forward(
    plan: Plan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor, Kept]:
    """Return output and log-sum-exp of this rank's rows, and what backward needs."""
    ring = _Ring(plan, "forward", k, v)
    rows = Forward(q, plan.held(), mask, plan.options)
    for origin, block_k, block_v in ring.blocks():
        rows.add(block_k, block_v, plan.held(origin))
    out, lse = rows.result(v.size(-1), sinks)
    return out.to(q.dtype), lse, Kept(q, k, v, mask, sinks, kept_output(out, q), lse)


def backward(plan: Plan, kept: Kept, grads: OutputGradients) -> Gradients:
    """Return the gradients of this rank's rows; that of sinks is summed over ranks."""
    ring = _Ring(plan, "backward", kept.k, kept.v)
    rows = Backward(kept, plan.held(), plan.options, grads)
    followers = _Followers(ring, sum_dtype(kept.q))
    for origin, k, v in ring.blocks():
        sums = k.new_zeros(ring.elements(origin), dtype=sum_dtype(kept.q))
        rows.add(k, v, plan.held(origin), *unpack(sums, *ring.shapes(origin)))
        followers.add(sums, origin)
    dk, dv = unpack(followers.home(), *ring.shapes(ring.link.rank))
    return rows.dq, dk, dv, rows.dmask, plan.sinks_gradient(kept, grads)


class _Ring:
    """Where blocks go, how large they are, and their journey once round."""

    def __init__(self, plan: Plan, direction: str, k: Tensor, v: Tensor) -> None:
        """Take this rank's own block."""
        self.link = plan.linked(direction)
        self.following = (self.link.rank + 1) % self.link.size
        self.preceding = (self.link.rank - 1) % self.link.size
        self.place = self.link.place(k.device)
        self._plan, self._k, self._v = plan, k, v

    def shapes(self, origin: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of k and v of the block that began at a rank."""
        rows = self._plan.rows(origin)
        first = self._k.shape[:2]
        return (*first, rows, self._k.size(-1)), (*first, rows, self._v.size(-1))

    def elements(self, origin: int) -> int:
        """Return how many numbers that block has."""
        return sum(map(math.prod, self.shapes(origin)))

    def largest(self) -> int:
        """Return how many numbers the largest block has."""
        return max(map(self.elements, range(self.link.size)))

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield ``(origin, k, v)`` of each block, the own one first.

        The next is on its way until the caller asks for it.
        """
        rank, size = self.link.rank, self.link.size
        k, v, origin = self._k, self._v, rank
        block = pack(k, v).to(self.place)
        spare = [block.new_empty(self.largest()) for _ in range(min(2, size - 1))]
        for step in range(size - 1):
            coming = (origin - 1) % size
            arriving = spare[step % 2][: self.elements(coming)]
            transfer = self.pass_on(block, arriving, _BLOCK)
            yield origin, k, v
            transfer.wait()
            block, origin = arriving, coming
            k, v = unpack(block.to(self._k.device), *self.shapes(origin))
        yield origin, k, v

    def pass_on(self, departing: Tensor, arriving: Tensor, tag: int) -> Transfer:
        """Send to the next rank and receive from the one before."""
        return self.link.start(
            [Message(departing, self.following, tag)],
            [Message(arriving, self.preceding, tag)],
        )


class _Followers:
    """Sums of the gradients of blocks, each of which follows its block round.

    The part of the own rank waits at home, so that a block's sums set out from the
    second rank on its way and come home from the last one.
    """

    def __init__(self, ring: _Ring, dtype: torch.dtype) -> None:
        """Take a ring whose blocks travel at the same time."""
        self._ring = ring
        self._home: Tensor | None = None
        self._transfer: Transfer | None = None
        self._buffer = torch.empty(ring.largest(), dtype=dtype, device=ring.place)
        self._arrived = self._buffer[:0]  # or on its way, with a transfer

    def add(self, sums: Tensor, origin: int) -> None:
        """Take a rank's part of a block's sums; send on what has been summed so far."""
        ring = self._ring
        if origin == ring.link.rank:
            self._home = sums
            return
        self._add_arrived(sums)
        # What comes next belongs to the block that comes next, at last to the own one.
        size = ring.elements((origin - 1) % ring.link.size)
        self._arrived = self._buffer[:size]
        self._transfer = ring.pass_on(sums.to(ring.place), self._arrived, _SUMS)

    def home(self) -> Tensor:
        """Return the sums of the own block."""
        assert self._home is not None
        self._add_arrived(self._home)
        return self._home

    def _add_arrived(self, sums: Tensor) -> None:
        if self._transfer is not None:
            self._transfer.wait()
            sums += self._arrived.to(sums.device)
