"""The simulator: the ``metalsim`` device of PyTorch, and the simulator alone.

>>> from orchard_ops import sim
>>> sim.enable()
>>> x = torch.randn(2, 3, device="metalsim")

Without PyTorch's device, `library` runs any Metal kernel on NumPy arrays:

>>> kernel = sim.library("scale.metal").kernel("scale")
>>> kernel.dispatch({0: x, 1: y, 2: sim.Bytes(2.0)}, grid=4, group=64)

Importing this module loads nothing.
"""

from __future__ import annotations

from ._arguments import Buffer, Bytes
from ._compiler import compiler
from ._library import (
    Footprint,
    Kernel,
    Library,
    check,
    compile,  # noqa: A004 - the design's name, used as sim.compile
    library,
)
from ._metalsim import (
    DEVICE,
    Memory,
    Setting,
    counters,
    default_storage_mode,
    enable,
    family,
    idle,
    kernel_counters,
    memory,
    reset_counters,
    reset_peak_memory,
    seed,
    strict,
)

__all__ = [
    "DEVICE",
    "Buffer",
    "Bytes",
    "Footprint",
    "Kernel",
    "Library",
    "Memory",
    "Setting",
    "check",
    "compile",
    "compiler",
    "counters",
    "default_storage_mode",
    "enable",
    "family",
    "idle",
    "kernel_counters",
    "library",
    "memory",
    "reset_counters",
    "reset_peak_memory",
    "seed",
    "strict",
]
