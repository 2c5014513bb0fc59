"""A short timing of attention beside PyTorch's own, for the doctor's report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import orchard_ops

from .._errors import translate

__all__ = ["NOTE", "short_benchmark"]

# (batch, heads, length, head_dim), causal.  The simulator is slow: one tiny one.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "mps": ((1, 8, 1024, 64), (1, 8, 4096, 64), (1, 8, 2048, 128)),
    "metalsim": ((1, 1, 64, 32),),
}
DTYPES = {"mps": torch.float16, "metalsim": torch.float32}
REPEATS = {"mps": 10, "metalsim": 3}
NOTE = {
    "mps": "medians on this GPU, milliseconds",
    "metalsim": "the simulator on the CPU, milliseconds: says nothing about a GPU",
}


def short_benchmark(device: torch.device) -> list[dict[str, Any]]:
    """Time forward, and forward with backward; a failure is a row with ``error``."""
    dtype, repeats = DTYPES[device.type], REPEATS[device.type]
    return [
        _row(shape, dtype, device, with_backward, repeats)
        for shape in SHAPES[device.type]
        for with_backward in (False, True)
    ]


def _row(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    with_backward: bool,
    repeats: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "shape": list(shape),
        "dtype": str(dtype).rpartition(".")[2],
        "is_causal": True,
        "pass": "forward and backward" if with_backward else "forward",
    }
    try:
        parts = [torch.randn(shape).to(dtype).to(device) for _ in range(4)]
        for name, attend in (("ours_ms", _ours), ("sdpa_ms", _sdpa)):
            row[name] = _median_ms(attend, parts, with_backward, repeats)
    except (orchard_ops.OrchardError, RuntimeError) as error:
        known = translate(error) if isinstance(error, RuntimeError) else error
        row["error"] = str(known)
    return row


def _ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return orchard_ops.flash_attention(q, k, v, is_causal=True)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _median_ms(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    parts: list[Tensor],
    with_backward: bool,
    repeats: int,
) -> float:
    q, k, v = (part.detach().requires_grad_(with_backward) for part in parts[:3])
    times = []
    for _ in range(repeats + 1):  # the first call compiles the kernels
        _synchronize(q.device)
        started = time.perf_counter()
        out = attend(q, k, v)
        if with_backward:
            torch.autograd.grad(out, (q, k, v), parts[3])
        _synchronize(q.device)
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 3)


def _synchronize(device: torch.device) -> None:
    if device.type == "mps":
        # PyTorch's own wait reports no error of the GPU.
        orchard_ops.synchronize()
