"""What a step costs on a GPU, and whoever else can say what one costs."""

from __future__ import annotations

import math
import time
from typing import Callable, Protocol

from torch import Tensor

from .. import _native, sim
from .._counts import synchronize
from .shapes import Shape

__all__ = ["GpuMeter", "Meter", "Step", "meter_for"]

Step = Callable[[], object]


class Meter(Protocol):
    """How the steps of a device are priced."""

    unit: str
    """What its numbers are, for whoever reads them."""
    repeats: int
    """Turns of a first look; a close one takes three times as many."""
    compilers: int
    """Threads that may make kernels at once."""
    longest: int | None
    """The length that shapes are cut down to; None: they are measured as they are."""
    has_pytorch: bool
    """Whether PyTorch's own attention can be measured beside ours."""

    def seconds(self, step: Step, shape: Shape) -> float:
        """Return what one step takes."""

    def wall_seconds(self, step: Step, shape: Shape) -> float:
        """Return the same, also of steps that have no launch of ours."""


class GpuMeter:
    """The time of a step on the GPU, among enough of them to fill some milliseconds."""

    unit = "measured on this GPU"
    repeats = 5
    compilers = 1
    longest: int | None = None
    has_pytorch = True

    def __init__(
        self, like: Tensor, least_seconds: float = 4e-3, most_calls: int = 64
    ) -> None:
        """Take a tensor there, a batch's least time, and the most steps it has."""
        self._like, self._least, self._most = like, least_seconds, most_calls
        self._calls: dict[tuple[Shape, str], int] = {}

    def seconds(self, step: Step, shape: Shape) -> float:
        """Return what one step takes."""
        return self._each(self.batch, step, shape)

    def wall_seconds(self, step: Step, shape: Shape) -> float:
        """Return the same by the host's clock, what the host does included."""
        return self._each(self.wall_batch, step, shape)

    def _each(
        self, batch: Callable[[Step, int], float], step: Step, shape: Shape
    ) -> float:
        # Of the forward and the backward of one shape apart.
        key = (shape, getattr(step, "__name__", ""))
        if key not in self._calls:
            batch(step, 1)  # compiles
            once = max(batch(step, 1), 1e-6)
            self._calls[key] = min(self._most, math.ceil(self._least / once))
        calls = self._calls[key]
        return batch(step, calls) / calls

    def batch(self, step: Step, calls: int) -> float:
        """Return the seconds of so many steps, by the GPU's time stamps."""
        before = _native.ops.gpu_seconds(self._like)
        waited = self.wall_batch(step, calls)
        took = _native.ops.gpu_seconds(self._like) - before
        # Where PyTorch's command buffers are not ours to watch: the host's clock.
        return took if took > 0 else waited

    def wall_batch(self, step: Step, calls: int) -> float:
        """Return the seconds until so many steps are done."""
        synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            step()
        synchronize()
        return time.perf_counter() - started


def meter_for(like: Tensor) -> Meter:
    """Return the meter of a tensor's device."""
    if like.device.type != sim.DEVICE:
        return GpuMeter(like)
    from .predicted import ModelMeter  # of what the benchmark counts

    return ModelMeter(like)
