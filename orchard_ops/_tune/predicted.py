"""What a step costs by the benchmark's model, on the simulator."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native, sim
from .._perf import model
from .._perf import work as counting
from .._perf.calibration import efficiency
from .._perf.chips import chip_named
from .._perf.search import SCORED_ON
from .meters import Step
from .shapes import Shape
from .store import TILED

__all__ = ["ModelMeter"]


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
