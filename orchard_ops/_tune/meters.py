"""What a step costs: seconds on a GPU, or the cost model's on the simulator."""

from __future__ import annotations

import math
import time
from typing import Callable, Protocol

import torch
from torch import Tensor

import orchard_ops
from orchard_ops import _native, sim

from .._perf import model
from .._perf import work as counting
from .._perf.calibration import efficiency
from .._perf.chips import chip_named
from .._perf.search import SCORED_ON
from .shapes import Shape
from .store import TILED

__all__ = ["GpuMeter", "Meter", "ModelMeter", "meter_for"]

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
        orchard_ops.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            step()
        orchard_ops.synchronize()
        return time.perf_counter() - started


class ModelMeter:
    """The benchmark's model of what the simulator counts: nothing is measured.

    Long shapes are cut down; what they do for each score stays the same.
    """

    unit = "predicted by the cost model, not measured"
    repeats = 1
    compilers = 1
    longest: int | None = 256
    has_pytorch = False

    def __init__(self, like: Tensor) -> None:
        """Take a tensor of the simulator."""
        self._like = like

    def seconds(self, step: Step, shape: Shape) -> float:
        """Return the model's time on a chip of the simulated class."""
        with sim.strict(True):  # it counts every access
            sim.reset_counters()
            step()
        found = sim.kernel_counters()
        return sum(
            self._kernel(name, {key: float(n) for key, n in counters.items()}, shape)
            for name, counters in found.items()
            if name in counting.tensors()
        )

    def wall_seconds(self, step: Step, shape: Shape) -> float:
        """Return the model's time: there is no other."""
        return self.seconds(step, shape)

    def _kernel(self, name: str, counters: dict[str, float], shape: Shape) -> float:
        family = _native.ops.gpu_class(self._like)
        chip = chip_named(SCORED_ON.get(family, SCORED_ON["B"]))
        slices = 1
        if name in TILED:
            fields = _native.ops.chosen_tile(
                self._like, name, shape.dtype, shape.head_dim
            )
            slices = fields[3]
        element_bytes = shape.torch_dtype.itemsize
        scores = shape.batch * shape.heads_q * shape.len_q * shape.len_kv
        kept = element_bytes * scores if name == "backward_dq_spilled" else 0
        work = counting.work_of_slices(
            *(name, counters, slices, max(shape.head_dim // slices, 1)),
            *(element_bytes, 0.0, float(kept)),
        )
        if chip.family == "A" and shape.torch_dtype == torch.bfloat16:
            work = model.as_floats(work)
        eta = efficiency(chip.family, element_bytes)
        predicted = model.predict(work, chip, eta, element_bytes)
        # How a step of decoding fills the GPU is what its splits are about; of others
        # a short shape's last wave says nothing.
        return predicted.seconds if shape.is_decode else predicted.steady_seconds


def meter_for(like: Tensor) -> Meter:
    """Return the meter of a tensor's device."""
    return ModelMeter(like) if like.device.type == sim.DEVICE else GpuMeter(like)
