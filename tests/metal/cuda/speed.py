"""Time and memory beside PyTorch's math attention, on one GPU in one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import orchard_ops

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
HEADS = 8
REPEATS = 15
Attention = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def ours(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Our kernels, through the shim: the backward of five products."""
    return orchard_ops.flash_attention(q, k, v, is_causal=is_causal)


def math(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """PyTorch's math attention as it comes: float16 is computed in float32."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


@contextmanager
def _reduced() -> Iterator[None]:
    """Let math attention compute in the inputs' own dtype, on the tensor cores."""
    allow = torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp
    allow(True)
    try:
        yield
    finally:
        allow(False)


def math16(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """PyTorch's math attention, told to stay in 16 bits."""
    with _reduced():
        return math(q, k, v, is_causal)


def recompute(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Our kernels without scratch: the backward of seven products."""
    return ours(q, k, v, is_causal)


def _step(function: Attention, tensors: list[Tensor], is_causal: bool) -> None:
    q, k, v, grad_out = tensors
    scratch = 0 if function is recompute else None
    with orchard_ops.backward_scratch(scratch):
        out = function(q, k, v, is_causal)
        torch.autograd.grad(out, (q, k, v), grad_out)


def _milliseconds(step: Callable[[], None]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def _draw(length: int, head_dim: int) -> list[Tensor]:
    shape = (1, HEADS, length, head_dim)
    made = [torch.randn(shape, device="cuda").half() for _ in range(4)]
    return [*(t.requires_grad_() for t in made[:3]), made[3]]


def measure(length: int, head_dim: int, is_causal: bool) -> dict[str, Any]:
    """Return the medians of forward + backward, all taking turns."""
    tensors = _draw(length, head_dim)
    functions: dict[str, Attention] = {
        **{"ours": ours, "recompute": recompute},
        **{"math": math, "math16": math16},
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(REPEATS + 3):
        for name, function in functions.items():
            took = _milliseconds(lambda f=function: _step(f, tensors, is_causal))
            if turn >= 3:  # the first ones warm up
                times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    spread = max(max(v) / min(v) for v in times.values())
    return {
        **{"length": length, "head_dim": head_dim, "is_causal": is_causal},
        **{f"{name}_ms": value for name, value in medians.items()},
        "ratio": medians["math"] / medians["ours"],
        "ratio16": medians["math16"] / medians["ours"],
        "largest_spread": spread,
    }


def memory(length: int, function: Attention) -> float:
    """Return the most MiB that forward + backward take beside their inputs."""
    tensors = _draw(length, 64)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _step(function, tensors, True)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
