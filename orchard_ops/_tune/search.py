"""The search: candidates of one class of shapes, raced against what ships."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Callable

from torch import Tensor

from .. import _native
from .._errors import OrchardError
from .._perf import search as tiles
from .._perf.search import Tile
from .._scratch import backward_scratch
from .bench import Bench, SmallerTileError
from .meters import Meter
from .routes import route_of_shape
from .shapes import Class, Shape
from .store import Choices, shipped_tile, trying

__all__ = ["Finding", "Progress", "Tuner"]

# What a choice must gain to be kept: more than this, and than twice the noise.
MARGIN = 0.02
SHORT = 64  # of shapes that only compile
MIB = 1 << 20
DEFAULT_SCRATCH = 264 * MIB
SCRATCHES = (66 * MIB, 1056 * MIB)  # besides
THREADGROUPS = (32, 64, 256, 512, 1024)  # besides the shipped 128
Progress = Callable[[str, float], None]
"""Takes what is done now, and the share of all that is done."""


@dataclass
class Finding:
    """The times of one shape and pass, with what ships and with what was chosen."""

    shape: Shape
    which: str
    """A pass: forward, backward or decode."""
    shipped_ms: float
    tuned_ms: float
    noise: float
    """How far two series of the shipped one were apart, of the time."""
    unit: str
    shipped: dict[str, Any] = field(default_factory=dict)
    """Kernel → tile, and the numbers that were chosen."""
    tuned: dict[str, Any] = field(default_factory=dict)
    """The same where something was chosen; empty: what ships stays."""
    beside_ms: tuple[float, float] | None = None
    """Of a forward by the host's clock: ours as chosen, and PyTorch's own."""

    @property
    def speedup(self) -> float:
        """How many times as fast the chosen one is."""
        return self.shipped_ms / self.tuned_ms


@dataclass
class _Run:
    """One class and pass on the way."""

    of: Class
    which: str
    benches: list[Bench]


class Tuner:
    """Tunes classes of shapes on one device.

    Args:
        like: a tensor of the device.
        meter: what prices its steps.
        candidates: tiles that are tried of a kernel, the shipped one among them.
        deadline: of `time.monotonic()`, after which nothing new is tried.
        progress: is told what happens.
    """

    def __init__(
        self,
        like: Tensor,
        meter: Meter,
        *,
        candidates: int = 12,
        deadline: float = math.inf,
        progress: Progress | None = None,
    ) -> None:
        """Look at the device, and launch nothing yet."""
        self._like, self._meter = like, meter
        self._most, self._deadline = candidates, deadline
        self._tell = progress or _say_nothing
        self._done, self._expected = 0, 1
        family = _native.ops.gpu_class(like)
        # Class C has B's tables and its model.
        self._family = family if family in tiles.SCORED_ON else "B"
        self.refused: list[str] = []
        """Candidates that could not be made, or computed something else."""

    def expect(self, classes: Mapping[Class, Sequence[Shape]]) -> None:
        """Be told what will be tuned, for the shares of it that progress is told."""
        each = self._most - 1
        for shapes in classes.values():
            if not all(shape.is_decode for shape in shapes):
                self._expected += 5 * each + 2  # of forward and of two backwards
            if any(shape.is_decode for shape in shapes):
                self._expected += each + len(THREADGROUPS)

    def tune(
        self, of: Class, shapes: Sequence[Shape]
    ) -> Iterator[tuple[Choices, list[Finding]]]:
        """Yield, for each pass of a class's shapes, what was chosen and found."""
        benches = [self._bench(shape) for shape in shapes]
        attention = [b for b in benches if not b.shape.is_decode]
        decode = [b for b in benches if b.shape.is_decode]
        plans: list[tuple[str, list[Bench], Callable[[_Run], Choices]]] = []
        if attention:
            plans += [
                ("forward", attention, self._forward),
                ("backward", attention, self._backward),
            ]
        if decode:
            plans.append(("decode", decode, self._decode))
        with _trusting(), backward_scratch(None):
            for which, those, find in plans:
                if self.is_over():
                    return
                run = _Run(of, which, those)
                for bench in those:
                    with trying(self._like, Choices()):
                        bench.remember(which)
                self._compile(run)
                choices, findings = self._confirmed(run, find(run))
                if which == "forward":
                    self._measure_pytorch(run, choices, findings)
                yield choices, findings

    def _bench(self, shape: Shape) -> Bench:
        longest = self._meter.longest
        if longest is not None:
            shape = shape.shortened(8 * longest if shape.is_decode else longest)
        return Bench(shape, self._like.device)

    # Each returns the best choices of a pass, which are still to be confirmed.

    def _forward(self, run: _Run) -> Choices:
        return self._best_tile(run, Choices(), "forward")[0]

    def _decode(self, run: _Run) -> Choices:
        best, score = self._best_tile(run, Choices(), "decode")
        more = [_with(best, "threadgroups", run.of, n) for n in THREADGROUPS]
        return self._race(run, more, (best, score))[0]

    def _backward(self, run: _Run) -> Choices:
        found = []
        for base, reader in self._backwards(run.of):
            start = self._race(run, [base], (base, math.inf))
            best = self._best_tile(run, base, "backward_dkdv", start)
            found.append(self._best_tile(run, best[0], reader, best))
        best = min(found, key=lambda pair: pair[1])
        if best is found[0] and self._is_cut(run):
            more = [_with(best[0], "scratch", run.of, n) for n in SCRATCHES]
            best = self._race(run, more, best)
        return best[0]

    def _backwards(self, of: Class) -> list[tuple[Choices, str]]:
        """Return the one that keeps and the one that recomputes, and who reads dq."""
        with trying(self._like, Choices()):
            shipped = _native.ops.chosen_scratch(self._like, of.dtype, of.head_dim)
        other = _with(Choices(), "scratch", of, 0 if shipped else DEFAULT_SCRATCH)
        kept, twice = (Choices(), other) if shipped else (other, Choices())
        return [(kept, "backward_dq_spilled"), (twice, "backward_dq")]

    def is_over(self) -> bool:
        """Say whether nothing new is to be tried."""
        return time.monotonic() > self._deadline

    def _is_cut(self, run: _Run) -> bool:
        """Say whether the default scratch does not hold all of a shape's."""
        return any(
            b.shape.batch
            * b.shape.heads_q
            * b.shape.len_q
            * b.shape.len_kv
            * b.shape.torch_dtype.itemsize
            > DEFAULT_SCRATCH
            for b in run.benches
        )

    def _best_tile(
        self,
        run: _Run,
        base: Choices,
        kernel: str,
        best: tuple[Choices, float] | None = None,
    ) -> tuple[Choices, float]:
        """Race a kernel's tiles, all else as in base."""
        options = [
            _with(base, kernel, run.of, tile)
            for tile in self._tiles(run.of, kernel, base)
        ]
        return self._race(run, options, best or (base, 1.0))

    def _tiles(self, of: Class, kernel: str, base: Choices) -> list[Tile]:
        """Return the candidates of a kernel, without the shipped one."""
        element = 4 if of.dtype == "float32" else 2
        if self._family == "A" and of.dtype == "bfloat16":
            element = 4  # what it is in registers
        found = tiles.candidates(
            *(kernel, self._family, tiles.row_for(of.head_dim), element), self._most
        )
        shipped = shipped_tile(self._like, kernel, of)
        chosen = [each.tile for each in found if each.tile != shipped]
        if kernel == "backward_dq_spilled":
            written = base.values.get(("backward_dkdv", of))
            if not isinstance(written, Tile):
                written = shipped_tile(self._like, "backward_dkdv", of)
            chosen = [tile for tile in chosen if tile.divides(written)]
        return chosen

    def _race(
        self, run: _Run, options: list[Choices], best: tuple[Choices, float]
    ) -> tuple[Choices, float]:
        """Return the fastest of options and best, and its share of what ships takes."""
        for option in options:
            if self.is_over():
                break
            self._report(run, option)
            try:
                score = self._score(run, option)
            except (OrchardError, SmallerTileError) as error:
                self.refused.append(f"{run.of}: {option.words()}: {error}")
                continue
            if score < best[1]:
                best = (option, score)
        return best

    def _report(self, run: _Run, option: Choices) -> None:
        self._done += 1
        text = f"{run.of} {run.which}: {option.words()}"
        self._tell(text, self._share())

    def _share(self) -> float:
        return min(self._done / self._expected, 1.0)

    def _score(self, run: _Run, option: Choices) -> float:
        """Return the geometric mean of its share of the shipped time.

        Infinity if the results are not right, or if one of the shapes gets slower.
        """
        with trying(self._like, option):
            is_right = all(bench.is_right(run.which) for bench in run.benches)
        if not is_right:
            self.refused.append(f"{run.of}: {option.words()}: other results")
            return math.inf
        shares = []
        for bench in run.benches:
            ours, theirs, _ = self._times(bench, run.which, option, self._meter.repeats)
            shares.append(ours / theirs)
        if max(shares) > 1 + MARGIN:  # What is faster elsewhere is no excuse.
            return math.inf
        return statistics.geometric_mean(shares)

    def _times(
        self, bench: Bench, which: str, option: Choices, repeats: int
    ) -> tuple[float, float, float]:
        """Return medians of an option and of what ships, in turns, and the noise."""
        series: list[list[float]] = [[], [], []]
        for _ in range(repeats):
            for numbers, choices in zip(series, (Choices(), option, Choices())):
                with trying(self._like, choices):
                    took = self._meter.seconds(bench.step(which), bench.shape)
                numbers.append(took)
        before, ours, after = map(statistics.median, series)
        theirs = statistics.median(series[0] + series[2])
        return ours, theirs, abs(before - after) / theirs

    def _confirmed(self, run: _Run, choices: Choices) -> tuple[Choices, list[Finding]]:
        """Time the winner again, alone with what ships; keep it only if it is faster.

        The times that it was chosen by are the luckiest of many.
        """
        findings = [self._finding(run, bench, choices) for bench in run.benches]
        share = statistics.geometric_mean(
            [found.tuned_ms / found.shipped_ms for found in findings]
        )
        noise = max(found.noise for found in findings)
        is_kept = bool(choices.values) and share < 1 - max(MARGIN, 2 * noise)
        if not is_kept:
            choices = Choices()
            for found in findings:
                found.tuned, found.tuned_ms = {}, found.shipped_ms
        remark = ", ".join(
            f"{found.shape} {found.which} {found.shipped_ms:.4g} -> "
            f"{found.tuned_ms:.4g} ms"
            for found in findings
        )
        remark = f"{self._meter.unit}: {remark}"
        choices.remarks = dict.fromkeys(choices.values, remark)
        return choices, findings

    def _measure_pytorch(
        self, run: _Run, choices: Choices, findings: list[Finding]
    ) -> None:
        """Time PyTorch's own forward, in turns with ours as it now is."""
        if not self._meter.has_pytorch:
            return
        for bench, found in zip(run.benches, findings):
            if not bench.has_pytorch() or self.is_over():
                continue
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(3 * self._meter.repeats):
                for times, which in ((ours, "forward"), (theirs, "pytorch")):
                    with trying(self._like, choices):
                        took = self._meter.wall_seconds(bench.step(which), bench.shape)
                    times.append(took)
            mine, other = statistics.median(ours), statistics.median(theirs)
            is_theirs = other < mine * (1 - max(MARGIN, 2 * found.noise))
            choices.routes[route_of_shape(bench.shape)] = is_theirs
            found.beside_ms = (1e3 * mine, 1e3 * other)

    def _finding(self, run: _Run, bench: Bench, choices: Choices) -> Finding:
        ours, theirs, noise = self._times(
            bench, run.which, choices, 3 * self._meter.repeats
        )
        shipped = {
            what: shipped_tile(self._like, what, run.of)
            for (what, _), value in choices.values.items()
            if isinstance(value, Tile)
        }
        tuned = {what: value for (what, _), value in choices.values.items()}
        return Finding(
            *(bench.shape, run.which, 1e3 * theirs, 1e3 * ours, noise),
            *(self._meter.unit, shipped, tuned),
        )

    def _compile(self, run: _Run) -> None:
        """Make what the races will launch side by side, where a device can."""
        threads = min(self._meter.compilers, os.cpu_count() or 1)
        if threads < 2:
            return
        small = list({bench.shape.shortened(SHORT): None for bench in run.benches})

        def make(option: Choices) -> None:
            if self.is_over():
                return
            # The race will meet what fails, and say so.
            failures = suppress(RuntimeError, OrchardError)
            with failures, trying(self._like, option):
                for shape in small:
                    Bench(shape, self._like.device).step(run.which)()

        self._tell(f"{run.of} {run.which}: compiling", self._share())
        with ThreadPoolExecutor(threads) as pool:
            for options in self._options(run):
                list(pool.map(make, options))

    def _options(self, run: _Run) -> Iterator[list[Choices]]:
        """Yield what the races begin with, then each of their tiles in it."""
        if run.which != "backward":
            kernels = [(Choices(), run.which)]
        else:
            backwards = self._backwards(run.of)
            yield [base for base, _ in backwards]
            kernels = [(base, "backward_dkdv") for base, _ in backwards] + backwards
        yield [
            _with(base, kernel, run.of, tile)
            for base, kernel in kernels
            for tile in self._tiles(run.of, kernel, base)
        ]


def _with(base: Choices, what: str, of: Class, value: Tile | int) -> Choices:
    more = base.copy()
    more.set(what, of, value)
    return more


def _say_nothing(text: str, share: float) -> None:
    """Be told what happens."""


@contextmanager
def _trusting() -> Iterator[None]:
    """Leave trials out (docs/verification.md): each candidate's results are checked.

    The winner is tried like any other kernel, by the next process that launches it.
    """
    before = os.environ.get("ORCHARD_VERIFY")
    os.environ["ORCHARD_VERIFY"] = "never"
    try:
        yield
    finally:
        if before is None:
            del os.environ["ORCHARD_VERIFY"]
        else:
            os.environ["ORCHARD_VERIFY"] = before
