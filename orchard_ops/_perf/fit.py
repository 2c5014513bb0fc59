"""Fit what the model does not know to times that a Mac has measured.

Only ratios count: a factor that all times of one element size have in common, such as
a clock, is taken out before.  So the fit tells the costs of a GPU from each other, as
the choice of tiles needs, and not how fast the GPU is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import search
from .assumptions import NOMINAL, RANGES, Assumptions, Range, scenarios
from .chips import CHIPS, chip_named
from .search import Points, Tile

__all__ = ["Fit", "Measured", "fit", "measured_in"]

SWEEPS, STEPS = 8, 8
# Of a time, as a share: less than this no clock and no other work lets one tell.
NOISE = 0.02
# Of an unknown that no time depends on: keeps it at its nominal value.
PULL = 1e-6


@dataclass(frozen=True)
class Measured:
    """A kernel's time on a chip, of dense heads of equal lengths."""

    kernel: str
    chip: str
    tile: Tile
    head_dim: int
    element_bytes: int
    length: int
    heads: int
    seconds: float

    def predicted(self, assumed: Assumptions = NOMINAL) -> float:
        """Return the model's seconds; waves and launches are not in them."""
        ps, _ = search.predicted(
            *(self.kernel, self.chip, self.tile, self.head_dim, self.element_bytes),
            assumed=assumed,
        )
        return 1e-12 * ps * self.heads * self.length**2


@dataclass(frozen=True)
class Fit:
    """The point that fits best, and how far each unknown may be from it."""

    point: Assumptions
    ranges: Mapping[str, Range]
    factors: Mapping[int, float]
    """Measured over predicted, by element size: common to all times."""
    before: float
    """Root mean square of what the nominal point leaves, as a share."""
    after: float

    @property
    def points(self) -> Points:
        """What the search for tiles looks at, instead of what was assumed."""
        return tuple(scenarios(self.point, self.ranges).items())


def measured_in(report: Mapping[str, Any]) -> list[Measured]:
    """Return the kernels' times of a report of ``orchard-ops bench --json``.

    Those of a chip that the model does not have are left out.
    """
    known = {chip.name for chip in CHIPS}
    fields = ("kernel", "chip", "head_dim", "element_bytes", "length", "heads")
    return [
        Measured(
            **{name: row[name] for name in fields},
            tile=Tile(*row["tile"]),
            seconds=1e-3 * row["measured_ms"],
        )
        for row in report["suites"].get("kernels", ())
        if row.get("chip") in known and "measured_ms" in row
    ]


def fit(times: Iterable[Measured]) -> Fit:
    """Return the point within the ranges that explains the times best.

    Raises:
        ValueError: there is nothing to fit, or times of two classes of GPU.
    """
    times = list(times)
    if len({chip_named(one.chip).family for one in times}) != 1:
        raise ValueError(f"fit: expected times of one class of GPU, got {len(times)}")
    point = _descend(times, NOMINAL, RANGES, SWEEPS)
    least = _lost(times, point)
    free = max(1, len(times) - len(RANGES))
    allowed = least + 4 * max(NOISE**2, least / free)  # two standard deviations
    return Fit(
        point=point,
        ranges={name: _range_of(times, point, name, allowed) for name in RANGES},
        factors=_factors(times, point),
        before=math.sqrt(_lost(times, NOMINAL) / len(times)),
        after=math.sqrt(least / len(times)),
    )


def _logs(times: list[Measured], point: Assumptions) -> dict[int, list[float]]:
    """Return the logarithms of measured over predicted, by element size."""
    found: dict[int, list[float]] = {}
    for one in times:
        ratio = one.seconds / one.predicted(point)
        found.setdefault(one.element_bytes, []).append(math.log(ratio))
    return found


def _factors(times: list[Measured], point: Assumptions) -> dict[int, float]:
    return {
        size: math.exp(sum(logs) / len(logs))
        for size, logs in _logs(times, point).items()
    }


def _lost(times: list[Measured], point: Assumptions) -> float:
    """Return the sum of squares that is left, without the common factors."""
    total = 0.0
    for logs in _logs(times, point).values():
        mean = sum(logs) / len(logs)
        total += sum((value - mean) ** 2 for value in logs)
    return total


def _pulled(
    times: list[Measured], point: Assumptions, ranges: Mapping[str, Range]
) -> float:
    """Return what is minimised."""
    away = 0.0
    for name, row in ranges.items():
        off = getattr(point, name) - getattr(NOMINAL, name)
        away += (off / (row.high - row.low)) ** 2
    return _lost(times, point) + PULL * away


def _descend(
    times: list[Measured],
    point: Assumptions,
    ranges: Mapping[str, Range],
    sweeps: int,
) -> Assumptions:
    """Move one unknown after the other to its best value, in ever smaller steps."""
    best = _pulled(times, point, ranges)
    for sweep in range(sweeps):
        for name, row in ranges.items():
            reach = (row.high - row.low) / 2**sweep
            at = getattr(point, name)
            for step in range(STEPS + 1):
                value = at + reach * (2 * step / STEPS - 1)
                moved = replace(point, **{name: min(max(value, row.low), row.high)})
                lost = _pulled(times, moved, ranges)
                if lost < best:
                    best, point = lost, moved
    return point


def _range_of(
    times: list[Measured], point: Assumptions, name: str, allowed: float
) -> Range:
    """Return how far one unknown may go, if all others follow it."""
    row = RANGES[name]
    others = {other: RANGES[other] for other in RANGES if other != name}
    kept = [getattr(point, name)]
    for step in range(STEPS + 1):
        value = row.low + (row.high - row.low) * step / STEPS
        moved = replace(point, **{name: value})
        if _lost(times, moved) > allowed:
            moved = _descend(times, moved, others, 3)
        if _lost(times, moved) <= allowed:
            kept.append(value)
    return Range(min(kept), max(kept), f"fitted to {len(times)} times")
