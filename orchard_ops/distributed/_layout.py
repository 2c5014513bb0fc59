"""Which rows of the whole sequence each rank holds: `pieces` alone decides."""

from __future__ import annotations

from typing import Literal, NamedTuple

from .._arguments.checks import whole_number
from .._errors import InvalidProblemError

__all__ = ["LAYOUTS", "Layout", "Piece", "local_length", "pieces", "placed"]

Layout = Literal["contiguous", "zigzag"]
LAYOUTS = ("contiguous", "zigzag")
# Rows that a kernel takes at once, or a divisor: pieces begin at multiples of it where
# the length allows, so that no tile of 32 is cut.
_LARGEST_UNIT = 32
# Of them in a chunk, so that no chunk is longer than another by more than an eighth.
_FEWEST_UNITS = 8


class Piece(NamedTuple):
    """Rows of the whole sequence, and where they lie in the tensor that has them."""

    begin: int
    end: int
    start: int  # row of that tensor

    @property
    def rows(self) -> slice:
        """The rows of that tensor."""
        return slice(self.start, self.start + self.end - self.begin)


def pieces(
    length: int, ranks: int, rank: int, layout: Layout = "zigzag"
) -> tuple[tuple[int, int], ...]:
    """Return ``(begin, end)`` of a rank's rows, in the order that it holds them.

    ``contiguous`` cuts the sequence into one chunk for each rank.  ``zigzag`` cuts it
    into two for each and gives rank r the chunks r and 2 * ranks - 1 - r, so that under
    a causal mask all ranks have the same work.  Lengths of chunks differ by at most one
    unit: 32 rows or, where chunks would have less than eight of these, the largest
    power of two of which they have eight, or 1.  Any length is cut.  Chunks that touch
    are one piece, and empty ones none.

    Args:
        length: rows of the whole sequence.
        ranks: how many ranks share it.
        rank: whose rows.
        layout: ``contiguous`` or ``zigzag``.

    Raises:
        InvalidProblemError: there is no such layout or rank, or length is negative.
    """
    name, advice = "distributed.pieces", "it counts rows or ranks"
    length = whole_number(name, "length", length, advice)
    ranks = whole_number(name, "ranks", ranks, advice)
    rank = whole_number(name, "rank", rank, advice)
    is_layout = isinstance(layout, str) and layout in LAYOUTS
    if not is_layout or not 0 <= rank < ranks or length < 0:
        raise InvalidProblemError(
            "[distributed.pieces] expected a layout of contiguous or zigzag, a rank "
            f"below the number of ranks and a length from 0 on, got {layout!r}, rank "
            f"{rank} of {ranks} and length {length}"
        )
    if layout == "contiguous":
        chunks, count = [rank], ranks
    else:
        chunks, count = [rank, 2 * ranks - 1 - rank], 2 * ranks
    found: list[tuple[int, int]] = []
    for chunk in chunks:
        begin, end = _cut(length, count, chunk), _cut(length, count, chunk + 1)
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        elif begin < end:
            found.append((begin, end))
    return tuple(found)


def _cut(length: int, count: int, chunk: int) -> int:
    """Return the row at which a chunk begins, of ``count`` chunks."""
    unit = _LARGEST_UNIT
    while unit > 1 and unit * _FEWEST_UNITS * count > length:
        unit //= 2
    units = -(-length // unit)
    return min(length, units * chunk // count * unit)


def placed(found: tuple[tuple[int, int], ...]) -> tuple[Piece, ...]:
    """Return pieces with the rows of the tensor that holds them one after the other."""
    start, result = 0, []
    for begin, end in found:
        result.append(Piece(begin, end, start))
        start += end - begin
    return tuple(result)


def local_length(length: int, ranks: int, rank: int, layout: Layout) -> int:
    """Return how many rows a rank holds."""
    return sum(end - begin for begin, end in pieces(length, ranks, rank, layout))
