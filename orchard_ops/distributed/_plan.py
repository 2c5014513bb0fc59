"""One call, as every rank of the group has agreed on it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._functions.partial import sink_gradient
from ._layout import Layout, local_length, pieces, placed
from ._problem import Kept, Options, OutputGradients, Pieces
from ._transport import Link

__all__ = ["Gradients", "Plan", "whole"]

Gradients = tuple[Tensor, Tensor, Tensor, "Tensor | None", "Tensor | None"]


@dataclass(frozen=True)
class Plan:
    """The group, who holds what, and what is asked for."""

    link: Link
    layout: Layout
    length: int
    options: Options
    method: str
    returns_lse: bool

    def held(self, rank: int | None = None) -> Pieces:
        """Return the pieces of a rank, by default of this one."""
        rank = self.link.rank if rank is None else rank
        return placed(pieces(self.length, self.link.size, rank, self.layout))

    def rows(self, rank: int) -> int:
        """Return how many rows a rank holds."""
        return local_length(self.length, self.link.size, rank, self.layout)

    def linked(self, direction: str) -> Link:
        """Return the link, which counts for this method's pass."""
        return self.link.for_purpose(f"{self.method}.{direction}")

    def sinks_gradient(self, kept: Kept, grads: OutputGradients) -> Tensor | None:
        """Return the gradient of sinks, which all ranks' rows have a part in."""
        if kept.sinks is None or not grads.wants_sinks:
            return None
        part = sink_gradient(grads.out, kept.out, kept.lse, kept.sinks, grads.lse)
        return self.link.for_purpose("sinks").total(part)


def whole(length: int) -> Pieces:
    """Return all rows of the sequence, as they lie in a tensor of all."""
    return placed(((0, length),) if length else ())
