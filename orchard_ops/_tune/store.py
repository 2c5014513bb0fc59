"""What was chosen, as the user's cache and C++ have it (csrc/attention/choices.h)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Union

import torch
from torch import Tensor

from .. import _native
from .._errors import OrchardError, translate
from .._perf.search import Tile
from .routes import Route
from .shapes import Class

__all__ = ["Choices", "exported", "kept", "reset", "shipped_tile", "trying"]

FORMAT = 1
TILED = (
    *("forward", "backward_dkdv", "backward_dq", "backward_dq_spilled"),
    "decode",
)
NUMBERS = ("scratch", "threadgroups")
Value = Union[Tile, int]
_routes: dict[torch.device, Mapping[Route, bool]] = {}
Key = tuple[str, Class]
"""A kernel, "scratch" or "threadgroups", and for what."""


@dataclass
class Choices:
    """Choices by what they are for, each with a remark."""

    values: dict[Key, Value] = field(default_factory=dict)
    remarks: dict[Key, str] = field(default_factory=dict)
    routes: dict[Route, bool] = field(default_factory=dict)
    """Whether PyTorch's own forward was faster."""

    def set(self, what: str, of: Class, value: Value, remark: str = "") -> None:
        """Choose a tile for a kernel, or a number for another name."""
        self.values[what, of] = value
        self.remarks[what, of] = remark

    def forget(self, of: Class, *whats: str) -> None:
        """Go back to the shipped ones."""
        for what in whats:
            self.values.pop((what, of), None)
            self.remarks.pop((what, of), None)

    def add(self, others: Choices) -> None:
        """Choose what others have chosen."""
        self.values.update(others.values)
        self.remarks.update(others.remarks)
        self.routes.update(others.routes)

    def copy(self) -> Choices:
        """Return another that holds the same."""
        return Choices(dict(self.values), dict(self.remarks), dict(self.routes))

    def words(self) -> str:
        """Return what is chosen in a few words."""
        return words({what: value for (what, _), value in self.values.items()})

    def text(self) -> str:
        """Return the lines that C++ reads."""
        return "".join(line + "\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for (what, of), value in self.values.items():
            if isinstance(value, int):
                line = f"{what} {of.dtype} {of.head_dim} {value}"
            else:
                fields = (value.rows, value.cols, value.simdgroups, value.slices)
                line = f"tile {what} {of.dtype} {of.head_dim} "
                line += " ".join(map(str, fields))
            remark = self.remarks.get((what, of))
            yield f"{line}  # {remark}" if remark else line
        for route, is_theirs in self.routes.items():
            winner = "pytorch" if is_theirs else "orchard"
            yield " ".join(["route", *route.words(), winner])

    @classmethod
    def read(cls, text: str) -> Choices:
        """Return what ``text`` wrote."""
        found = cls()
        for line in text.splitlines():
            words, _, remark = line.partition("#")
            name, *rest = words.split()
            if name == "route":
                found.routes[Route.read(rest[:-1])] = rest[-1] == "pytorch"
                continue
            what = rest.pop(0) if name == "tile" else name
            of = Class(rest[0], int(rest[1]))
            numbers = [int(word) for word in rest[2:]]
            value = Tile(*numbers) if name == "tile" else numbers[0]
            found.set(what, of, value, remark.strip())
        return found


def words(chosen: Mapping[str, Value]) -> str:
    """Return tiles by kernel, and numbers, in a few words."""
    return ", ".join(f"{what} {value_words(n)}" for what, n in chosen.items())


def value_words(value: Value) -> str:
    """Return a number, or a tile as the kernels' names have it."""
    if isinstance(value, int):
        return str(value)
    return f"{value.rows}x{value.cols} sg{value.simdgroups} slices{value.slices}"


def kept(like: Tensor) -> Choices:
    """Return what the user's cache holds for a tensor's device."""
    with _translated():
        return Choices.read(_native.ops.kept_choices(like))


def keep(like: Tensor, choices: Choices) -> None:
    """Keep them in the user's cache, whole, and use them from the next call on."""
    with _translated():
        _native.ops.keep_choices(like, choices.text())
    _routes.clear()


def routes_on(tensor: Tensor) -> Mapping[Route, bool]:
    """Return the routes that are kept for a tensor's device, read once."""
    found = _routes.get(tensor.device)
    if found is None:
        is_wanted = os.environ.get("ORCHARD_TUNED") != "never"
        with suppress(OrchardError):  # C++ warns of what it cannot read
            found = kept(tensor).routes if is_wanted else {}
        _routes[tensor.device] = found = found or {}
    return found


def reset(like: Tensor) -> None:
    """Forget what was chosen on a tensor's device."""
    keep(like, Choices())


@contextmanager
def trying(like: Tensor, choices: Choices) -> Iterator[None]:
    """Use choices, and none of those that are kept, in this thread's launches."""
    with _translated():
        _native.ops.try_choices(like, choices.text())
    try:
        yield
    finally:
        _native.ops.try_choices(like, None)


def shipped_tile(like: Tensor, kernel: str, of: Class) -> Tile:
    """Return the tile of a kernel in the tables that the package came with."""
    with trying(like, Choices()):
        fields = _native.ops.chosen_tile(like, kernel, of.dtype, of.head_dim)
    return Tile(*fields)


def exported(like: Tensor, choices: Choices) -> str:
    """Return them as JSON, for a maintainer to make rows of the tables from."""
    rows: list[dict[str, Any]] = []
    for (what, of), value in choices.values.items():
        row: dict[str, Any] = {
            "what": what,
            "dtype": of.dtype,
            "head_dim": of.head_dim,
        }
        if isinstance(value, int):
            row["value"] = value
        else:
            row.update(tile=vars(value), shipped=vars(shipped_tile(like, what, of)))
        rows.append({**row, "remark": choices.remarks.get((what, of), "")})
    found = {
        "format": FORMAT,
        "orchard_ops": _native.VERSION,
        "gpu": _native.ops.describe_storage(like)[3],
        "class": _native.ops.gpu_class(like),
        "choices": rows,
        "routes": [
            {**vars(route), "is_pytorch_faster": is_theirs}
            for route, is_theirs in choices.routes.items()
        ],
    }
    return json.dumps(found, indent=1) + "\n"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise translate(error, "tune") from None
