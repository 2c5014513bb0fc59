"""Wide heads as models have them: predicted times and memory, beside PyTorch's own.

PyTorch's attention on a Mac is a composite, which holds the scores in memory.  Its
time is the least that it can be: each product at the rate of our kernels' multiplies,
each matrix of scores written and read once for each operator that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch.nn import functional

import orchard_ops
from orchard_ops import sim

from . import model
from . import work as counting
from .calibration import efficiency
from .chips import CHIPS, Chip
from .peak import peak_bytes
from .work import Counts, Shape

__all__ = ["wide"]

Row = dict[str, Any]

USUAL_CHIPS = ("M1", "M1 Max", "M4", "M4 Max")
VAE = "Stable Diffusion's VAE, 1 head of 512"
VAE_LENGTHS = (4096, 16384)
LATENT = "latent attention, decoding, 128 heads of 576/512"
LATENT_HEADS, LATENT_DIM, LATENT_DIM_V = 128, 576, 512
LATENT_LENGTHS = (8192, 65536)
LATENT_KERNELS = ("decode", "combine")
LATENT_SPLITS = 16  # what long caches are cut into by default
SHORT, LONG = 256, 512  # caches whose counts and bytes tell those of any other
MANY = 1e6  # threadgroups: no last, partly filled wave

# Of each operator of the composite: products with q or k, products with v or out, and
# how often matrices of scores are written or read.
FORWARD = ((1, 0, 1), (0, 0, 2), (0, 1, 1))  # q k^T; softmax; weights v
BACKWARD = (
    *((0, 1, 1), (0, 1, 1)),  # weights^T grad_out; grad_out v^T
    (0, 0, 3),  # softmax's: weights and gradients to gradients
    *((1, 0, 1), (1, 0, 1)),  # times k; transposed, times q
)
COMPOSITE = {"forward": FORWARD, "backward": BACKWARD}


def wide(full: bool) -> Iterator[Row]:
    """Predict times and measure memory of the attention of models with wide heads."""
    sim.enable()
    chips = [chip for chip in CHIPS if full or chip.name in USUAL_CHIPS]
    for dtype in (torch.float16, torch.float32):
        for length in VAE_LENGTHS:
            yield from vae_times(Shape(length, 512, dtype, heads=1), chips)
    for length in LATENT_LENGTHS:
        yield from latent_times(length, chips)
    for length in VAE_LENGTHS:
        yield vae_memory(length)
    for length in LATENT_LENGTHS:
        yield latent_memory(length)


def vae_times(shape: Shape, chips: list[Chip]) -> Iterator[Row]:
    """Yield the forward's and the default backward's time on each chip."""
    for chip in chips:
        with sim.family(chip.family):
            counts = counting.count(shape, "auto")
        for which in ("forward", "backward"):
            found = counting.predict_pass(counts, shape, chip, which)
            theirs = composite_seconds(
                *(which, shape.scores, (shape.head_dim, shape.head_dim)),
                *(shape.element_bytes, chip),
            )
            yield {
                **_described(VAE, shape.length, shape.dtype, chip, which),
                "predicted_ms": 1e3 * found["seconds"],
                "predicted_utilisation": found["utilisation"],
                "composite_at_least_ms": 1e3 * theirs,
            }


def latent_times(length: int, chips: list[Chip]) -> Iterator[Row]:
    """Yield a decoding step's time on each chip, in bfloat16."""
    scores = float(LATENT_HEADS * length)
    for chip in chips:
        works = [_latent_work(name, chip.family, length) for name in LATENT_KERNELS]
        if chip.family == "A":
            works = [model.as_floats(each) for each in works]
        eta = efficiency(chip.family, 2)
        seconds = sum(model.predict(each, chip, eta, 2).seconds for each in works)
        ideal = scores * (LATENT_DIM + LATENT_DIM_V) / 512 * model.multiply_cycles(2)
        seconds += model.FIRST_LAUNCH_SECONDS + model.NEXT_LAUNCH_SECONDS
        theirs = composite_seconds(
            "forward", scores, (LATENT_DIM, LATENT_DIM_V), 2, chip, length
        )
        yield {
            **_described(LATENT, length, torch.bfloat16, chip, "forward"),
            "predicted_ms": 1e3 * seconds,
            "predicted_utilisation": ideal / (4e9 * chip.cores * chip.ghz) / seconds,
            "composite_at_least_ms": 1e3 * theirs,
        }


def _described(
    case: str, length: int, dtype: torch.dtype, chip: Chip, which: str
) -> Row:
    return {
        "case": case,
        "length": length,
        "dtype": str(dtype).rpartition(".")[2],
        "chip": chip.name,
        "pass": which,
    }


def composite_seconds(
    which: str,
    scores: float,
    head_dims: tuple[int, int],
    element_bytes: int,
    chip: Chip,
    keys_read: int = 0,
) -> float:
    """Return the least time of PyTorch's composite, which writes the scores.

    Args:
        which: of COMPOSITE.
        scores: entries of their matrix, over all heads.
        head_dims: of q and k, and of v.
        element_bytes: of q, k and v.
        chip: where.
        keys_read: keys that come from DRAM, where they weigh more than the scores.
    """
    eta = efficiency(chip.family, element_bytes)
    seconds = model.FIRST_LAUNCH_SECONDS - model.NEXT_LAUNCH_SECONDS
    for keys, values, passes in COMPOSITE[which]:
        width = keys * head_dims[0] + values * head_dims[1]
        moved = passes * scores + keys_read * width
        work = model.Work(
            multiplies=width * scores / 512,
            dram_bytes=moved * element_bytes,
            threadgroups=MANY,
        )
        seconds += model.predict(work, chip, eta, element_bytes).seconds
        seconds += model.NEXT_LAUNCH_SECONDS
    return seconds


def _latent_step(length: int) -> None:
    """Decode one token; v is the first dimensions of the cache of k."""
    q = torch.zeros(1, 1, LATENT_HEADS, LATENT_DIM, dtype=torch.bfloat16)
    cache = torch.zeros(1, length, 1, LATENT_DIM, dtype=torch.bfloat16).to(sim.DEVICE)
    values = cache[..., :LATENT_DIM_V]
    orchard_ops.flash_attention_with_kvcache(
        q.to(sim.DEVICE), cache, values, cache_seqlens=length, num_splits=LATENT_SPLITS
    )


@cache
def _latent_counts(family: str) -> tuple[Counts, Counts]:
    """Return the counters of two short steps."""
    found = []
    for length in (SHORT, LONG):
        with sim.family(family), sim.strict(True):
            sim.reset_counters()
            _latent_step(length)
            counters = sim.kernel_counters()
        found.append(
            {
                kernel: {name: float(x) for name, x in counters[kernel].items()}
                for kernel in LATENT_KERNELS
            }
        )
    return found[0], found[1]


def _latent_work(kernel: str, family: str, length: int) -> model.Work:
    """Return the work of a step's kernel at any length: a line through two."""
    short, long = (counts[kernel] for counts in _latent_counts(family))
    counters = {name: _line(short[name], long[name], length) for name in short}
    if kernel == "combine":
        return counting.work_of_slices(kernel, counters, 1, 8, 2, 0.0)
    slices = counting.exchanged_slices(counters)
    slice_dim = (LATENT_DIM + LATENT_DIM_V) // 2 // slices
    # v is part of k.
    read = float(2 * length * LATENT_DIM)
    return counting.work_of_slices("forward", counters, slices, slice_dim, 2, read)


def _line(short: float, long: float, length: int) -> float:
    """Return a n + b at the length, from its values at SHORT and LONG."""
    return short + (long - short) * (length - SHORT) / (LONG - SHORT)


def vae_memory(length: int) -> Row:
    """Return the most bytes of a training step in float32."""
    size = (1, 1, length, 512)
    ours, default = (
        peak_bytes(orchard_ops.flash_attention, size, scratch, is_idle=True)
        for scratch in (0, None)
    )
    return {
        "case": VAE,
        "length": length,
        "peak_bytes": ours,
        "peak_bytes_with_scratch": default,
        "peak_bytes_of_pytorch": _composite_peak(length),
    }


@cache
def _composite_peak(length: int) -> int:
    """Return PyTorch's: a n^2 + b n, from lengths at which the scores weigh most."""
    theirs = functional.scaled_dot_product_attention
    n = 1024
    once, twice = (peak_bytes(theirs, (1, 1, m, 512)) for m in (n, 2 * n))
    a = (twice - 2 * once) / (2 * n * n)
    return round(length * (a * length + once / n - a * n))


def latent_memory(length: int) -> Row:
    """Return the most bytes of a decoding step, and of PyTorch's attention.

    PyTorch gets the heads as the rows of one head, which spares it copies of the keys.
    """
    with sim.idle():
        ours = _peak_of(partial(_latent_step, length))
    short, long = (_peak_of(partial(_composite_step, n)) for n in (SHORT, LONG))
    return {
        "case": LATENT,
        "length": length,
        "peak_bytes": ours,
        "peak_bytes_of_pytorch": round(_line(short, long, length)),
    }


def _composite_step(length: int) -> None:
    q = torch.zeros(1, 1, LATENT_HEADS, LATENT_DIM, dtype=torch.bfloat16)
    keys = torch.zeros(1, 1, length, LATENT_DIM, dtype=torch.bfloat16).to(sim.DEVICE)
    values = keys[..., :LATENT_DIM_V]
    functional.scaled_dot_product_attention(q.to(sim.DEVICE), keys, values)


def _peak_of(step: Callable[[], None]) -> int:
    before = sim.memory().allocated_bytes
    sim.reset_peak_memory()
    step()
    return sim.memory().peak_bytes - before
