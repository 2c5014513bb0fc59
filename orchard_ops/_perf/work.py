"""What our kernels do, counted by the simulator, and the model's time for it.

Counts are exact polynomials of the length (quadratic, no constant) wherever the
length is a multiple of every tile: two small runs give them for any length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

import orchard_ops
from orchard_ops import _native, sim

from . import model
from .calibration import efficiency
from .chips import Chip
from .kernels import KERNELS
from .model import Work

__all__ = [
    "BACKWARDS",
    "Counts",
    "Shape",
    "count",
    "exchanged_slices",
    "ideal_multiplies",
    "passes",
    "predict_pass",
    "work_of_slices",
]

# Multiples of the rows and columns of every threadgroup, 128 at most.
SHORT, LONG = 128, 384
PRODUCTS = {"forward": 2, "backward": 5}
# The scratch of `orchard_ops.backward_scratch` that makes a backward compute the
# gradients of the scores twice, keep them, or do what it does by itself.
BACKWARDS = {"recompute": 0, "spill": 1 << 30, "auto": None}
DEFAULT_SCRATCH = 264 << 20

Counts = dict[str, dict[str, float]]
"""Counters by kernel."""


@dataclass(frozen=True)
class Shape:
    """A problem: square, all heads alike."""

    length: int = 8192
    head_dim: int = 64
    dtype: torch.dtype = torch.float16
    heads: int = 8
    """Batch times heads."""
    is_causal: bool = False

    @property
    def element_bytes(self) -> int:
        """Bytes of an element."""
        return torch.empty(0, dtype=self.dtype).element_size()

    @property
    def scores(self) -> float:
        """Entries of the scores that exist."""
        every = self.heads * self.length**2
        return every / 2 if self.is_causal else float(every)


def run(shape: Shape, strict: bool = True, backward: str = "recompute") -> Counts:
    """Run a problem, forward and backward, on the simulator; return what it counted.

    Args:
        shape: the problem.
        strict: whether the simulator checks, and counts, every access.
        backward: one of BACKWARDS.
    """
    size = (1, shape.heads, shape.length, shape.head_dim)
    sim.enable()
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(size, generator=generator).to(shape.dtype).to(sim.DEVICE)
        for _ in range(4)
    )
    leaves = tuple(tensor.requires_grad_() for tensor in (q, k, v))
    with sim.strict(strict), orchard_ops.backward_scratch(BACKWARDS[backward]):
        sim.reset_counters()
        out = orchard_ops.flash_attention(q, k, v, is_causal=shape.is_causal)
        torch.autograd.grad(out, leaves, grad)
    found = sim.kernel_counters()
    return {
        kernel: {name: float(value) for name, value in counters.items()}
        for kernel, counters in found.items()
        if counters["matrix_multiplies"] or kernel in tensors()
    }


def count(shape: Shape, backward: str = "recompute") -> Counts:
    """Return the counters of a problem of any length, by two short simulations."""
    sim.enable()
    short, long = (
        _run_once(sim.family(), replace(shape, length=length, heads=1), backward)
        for length in (SHORT, LONG)
    )
    return {
        kernel: {
            name: shape.heads * _extrapolate(value, long[kernel][name], shape.length)
            for name, value in counters.items()
        }
        for kernel, counters in short.items()
    }


@cache
def _run_once(family: str, shape: Shape, backward: str) -> Counts:
    with sim.family(family):
        return run(shape, backward=backward)


def _extrapolate(short: float, long: float, length: int) -> float:
    """Return a n^2 + b n at the length, from its values at SHORT and LONG."""
    a = (long / LONG - short / SHORT) / (LONG - SHORT)
    return length * (a * length + short / SHORT - a * SHORT)


def ideal_multiplies(shape: Shape, products: int) -> float:
    """Return the 8x8x8 multiplies of so many products over the scores that exist."""
    return products * shape.scores * shape.head_dim / 512


def work_of(kernel: str, counters: dict[str, float], shape: Shape) -> Work:
    """Return the model's view of what the simulator counted for one kernel."""
    # Of the loads, the kept gradients of the scores, which no two tiles share.
    kept = _kept_bytes(shape) if kernel == "backward_dq_spilled" else 0.0
    tensor = shape.heads * shape.length * shape.head_dim * shape.element_bytes
    slices = _slices_of(kernel, counters, shape)
    return work_of_slices(
        *(kernel, counters, slices, shape.head_dim // slices, shape.element_bytes),
        *(_tensors_read(kernel) * tensor, kept),
    )


def work_of_slices(
    kernel: str,
    counters: dict[str, float],
    slices: int,
    slice_dim: int,
    element_bytes: int,
    read_bytes: float,
    kept: float = 0.0,
) -> Work:
    """Return the model's view of a kernel whose simdgroups have slices of head_dim.

    Args:
        kernel: its name, for what its text does besides.
        counters: of the simulator.
        slices: slices of head_dim.
        slice_dim: dimensions of each.
        element_bytes: of q, k and v.
        read_bytes: what DRAM must give at the least, without kept gradients.
        kept: bytes of gradients of the scores that it reads.
    """
    lanes = 32
    loads = counters["device_loads"] / lanes
    reads = 0.0
    if kernel in KERNELS:
        each = model.loads_of_reads(kernel, slice_dim, element_bytes)
        reads = counters["device_loads_of_16"] / lanes / each
    exchanged = (counters["threadgroup_loads"] + counters["threadgroup_stores"]) / lanes
    weights = counters["exponentials"] / lanes
    loaded, stored = counters["device_load_bytes"], counters["device_store_bytes"]
    groups = max(counters["threadgroups"], 1.0)
    threads = counters["threads"] / groups
    return Work(
        multiplies=counters["matrix_multiplies"],
        alu=model.alu(kernel, weights, reads, slice_dim),
        shuffles=counters["shuffles"] + counters["votes"] + 8 * counters["reductions"],
        loads=loads + exchanged + counters["device_stores"] / lanes,
        exponentials=weights,
        barriers=counters["threadgroup_barriers"] * threads / lanes,
        device_bytes=loaded + stored,
        l2_bytes=stored
        + slices * kept
        + model.bytes_from_l2(loaded - slices * kept, slices),
        threadgroup_bytes=counters["threadgroup_load_bytes"]
        + counters["threadgroup_store_bytes"],
        dram_bytes=read_bytes + kept + stored,
        threadgroups=groups,
        threads=threads,
    )


def _slices_of(kernel: str, counters: dict[str, float], shape: Shape) -> int:
    """Return in how many slices of head_dim a kernel works."""
    if kernel != "backward_dq_spilled":
        return exchanged_slices(counters)
    # Each loads all gradients of the scores, two at a time.
    done = 2 * (counters["device_loads"] - counters["device_loads_of_16"])
    return max(1, round(done / shape.scores))


def exchanged_slices(counters: dict[str, float]) -> int:
    """Return how many slices add up their scores: each stores its own, loads all."""
    stores = counters["threadgroup_stores"]
    return round(counters["threadgroup_loads"] / stores) if stores else 1


def _kept_bytes(shape: Shape) -> float:
    return shape.scores * shape.element_bytes


@cache
def tensors() -> dict[str, tuple[set[str], set[str]]]:
    """Return kernel → the tensors that it reads and writes, by the launch plan."""
    rows = zip(*_native.ops.kernel_tensors())
    return {name: (set(read.split()), set(wrote.split())) for name, read, wrote in rows}


def _tensors_read(kernel: str) -> int:
    """Return how many as large as q it reads: the least that DRAM must give."""
    return len({"q", "k", "v", "out", "grad_out"} & tensors()[kernel][0])


def _chunks(kernel: str, counts: Counts, shape: Shape) -> int:
    """Return in how many launches a kernel does its work, by the default scratch."""
    read, written = tensors()[kernel]
    if "spill" not in read | written or "backward_dq_spilled" not in counts:
        return 1
    kept = shape.heads * shape.length**2 * shape.element_bytes
    return int(-(-kept // DEFAULT_SCRATCH))


def passes(counts: Counts) -> dict[str, list[str]]:
    """Return the kernels of the forward and of the backward, in the counts."""
    return {
        "forward": [name for name in counts if name == "forward"],
        "backward": [name for name in counts if name != "forward"],
    }


def predict_pass(
    counts: Counts, shape: Shape, chip: Chip, which: str
) -> dict[str, Any]:
    """Predict the forward or the backward on a chip.

    Returns:
        Seconds; the utilisation of the matrix rate by useful multiplies (2 products
        for the forward, 5 for the backward), and the steady one, without launches and
        partly filled waves; and for each kernel its seconds and binding term.
    """
    eta = efficiency(chip.family, shape.element_bytes)
    seconds, steady, launches = 0.0, 0.0, 0
    kernels = {}
    for kernel in passes(counts)[which]:
        parts = _chunks(kernel, counts, shape)
        part = work_of(kernel, counts[kernel], shape).times(1 / parts)
        if chip.family == "A" and shape.dtype == torch.bfloat16:
            part = model.as_floats(part)
        found = model.predict(part, chip, eta, shape.element_bytes)
        kernels[kernel] = {"seconds": parts * found.seconds, "binding": found.binding}
        seconds += parts * found.seconds
        steady += parts * found.steady_seconds
        launches += parts
    seconds += model.FIRST_LAUNCH_SECONDS
    seconds += model.NEXT_LAUNCH_SECONDS * (launches - 1)
    useful = ideal_multiplies(shape, PRODUCTS[which])
    ideal = useful * model.multiply_cycles(shape.element_bytes)
    return {
        "seconds": seconds,
        "utilisation": ideal / (4e9 * chip.cores * chip.ghz) / seconds,
        "steady_utilisation": ideal / (4e9 * chip.cores * chip.ghz) / steady,
        "kernels": kernels,
    }
