"""The check that all ranks ask for the same attention, before anything is computed.

One small message from each rank to each other: what was asked for, as a row of int64
numbers.  Ranks that differ learn on which point, all at the same time, instead of
waiting for each other or computing something else.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .._errors import InvalidProblemError
from ._transport import Link

__all__ = [
    "Entry",
    "checksum_entry",
    "choice_entry",
    "dtype_entry",
    "exchange",
    "float_entry",
    "require_same",
]

_DTYPES = (
    None,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.bool,
)
_NONE = -(2**62)  # the number of what is not there
# Numbers in a message, whether or not they are used: a rank that refuses its own
# arguments has none, and sends as many.
_WIDTH = 32


@dataclass(frozen=True)
class Entry:
    """One point: its name, its number here, and how a number reads."""

    name: str
    number: int
    show: Callable[[int], str] = str
    is_shared: bool = True  # else ranks may differ


def float_entry(name: str, value: float | None) -> Entry:
    """Return an entry for a number, or for its lack."""
    number = _NONE if value is None else _bits(value)
    return Entry(
        name, number, lambda bits: "none" if bits == _NONE else str(_float(bits))
    )


def choice_entry(name: str, value: object, choices: Sequence[object]) -> Entry:
    """Return an entry for one of a few things."""
    number = choices.index(value) if value in choices else len(choices)
    return Entry(name, number, lambda code: str([*choices, "another"][code]))


def dtype_entry(name: str, tensor: Tensor | None) -> Entry:
    """Return an entry for a tensor's dtype, or for its lack."""
    return choice_entry(name, None if tensor is None else tensor.dtype, _DTYPES)


def checksum_entry(name: str, values: Sequence[int] | None) -> Entry:
    """Return an entry for many numbers, or for their lack."""
    number = _NONE if values is None else zlib.crc32(repr([*values]).encode())
    return Entry(
        name,
        number,
        lambda code: "none" if code == _NONE else f"those of checksum {code:08x}",
    )


def exchange(
    name: str, link: Link, entries: Sequence[Entry] | None, device: torch.device
) -> list[dict[str, int]]:
    """Return the numbers of every rank by their names, in the order of ranks.

    Args:
        name: the public function, for errors.
        link: to the group's ranks.
        entries: of this rank; None if it refuses its arguments.
        device: of q.

    Raises:
        InvalidProblemError: another rank has refused its arguments.
    """
    numbers = [0] if entries is None else [1, *(each.number for each in entries)]
    numbers += [0] * (_WIDTH - len(numbers))
    place = link.control_place(device)
    own = torch.tensor(numbers, dtype=torch.int64, device="cpu").to(place)
    link.for_purpose("check")
    rows = [row.tolist() for row in link.gathered(own, [_WIDTH] * link.size)]
    if entries is None:
        return []
    refusing = [rank for rank, row in enumerate(rows) if not row[0]]
    if refusing:
        raise InvalidProblemError(
            f"[{name}] expected valid arguments on every rank, but {_ranks(refusing)} "
            "refused its own; see the error there"
        )
    names = [each.name for each in entries]
    return [dict(zip(names, row[1:])) for row in rows]


def require_same(
    name: str, entries: Sequence[Entry], rows: Sequence[dict[str, int]]
) -> None:
    """Raise where ranks differ.

    Raises:
        InvalidProblemError: says on what, and what each rank has.
    """
    found = []
    for entry in entries:
        by_number: dict[int, list[int]] = {}
        for rank, row in enumerate(rows):
            by_number.setdefault(row[entry.name], []).append(rank)
        if entry.is_shared and len(by_number) > 1:
            parts = [f"{entry.show(n)} on {_ranks(r)}" for n, r in by_number.items()]
            found.append(f"{entry.name}: {', '.join(parts)}")
    if found:
        raise InvalidProblemError(
            f"[{name}] expected the same call on every rank, got {'; '.join(found)}; "
            "pass the same options everywhere, and to each rank its own rows"
        )


def _ranks(which: Sequence[int]) -> str:
    word = "rank" if len(which) == 1 else "ranks"
    return f"{word} {', '.join(map(str, which))}"


def _bits(value: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return int(bits)


def _float(bits: int) -> float:
    (value,) = struct.unpack("<d", struct.pack("<q", bits))
    return float(value)
