"""The most bytes that a training step holds on the simulated device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import orchard_ops
from orchard_ops import sim

__all__ = ["peak_bytes"]


def peak_bytes(
    attention: Callable[..., Any],
    size: tuple[int, ...],
    scratch: int | None = None,
    is_idle: bool = False,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Return the most that a forward and a backward hold, their inputs included.

    Args:
        attention: a function of q, k and v.
        size: of each of them.
        scratch: as `orchard_ops.backward_scratch` has it.
        is_idle: whether kernels are left out; only the host allocates.
        dtype: of q, k and v.
    """
    before = sim.memory().allocated_bytes
    sim.reset_peak_memory()
    with sim.idle(is_idle), orchard_ops.backward_scratch(scratch):
        _step(attention, size, dtype)
        peak = sim.memory().peak_bytes
    # Autograd's thread lets go of a step's tensors a moment after the step: they must
    # not be counted among those that were there before the next one.
    deadline = time.monotonic() + 1
    while sim.memory().allocated_bytes > before and time.monotonic() < deadline:
        time.sleep(0.001)
    return peak - before


def _step(
    attention: Callable[..., Any], size: tuple[int, ...], dtype: torch.dtype
) -> None:
    q, k, v = (
        torch.randn(size).to(dtype).to(sim.DEVICE).requires_grad_() for _ in range(3)
    )
    out = attention(q, k, v)
    torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
