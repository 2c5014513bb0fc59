"""The benchmark on a Mac: real times beside other libraries'.

Written without a Mac; no line of `gpu` has run on one.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import orchard_ops

from .work import Shape

__all__ = ["gpu"]

Row = dict[str, Any]
Attend = Callable[..., Tensor]
PEERS = {"mlx": "mlx.core", "mps-flash-attn": "mps_flash_attn"}


def gpu(full: bool) -> Iterator[Row]:
    """Time forward and backward apart, on this Mac's GPU."""
    chip = _this_chip()
    lengths = (1024, 4096, 8192, 16384) if full else (1024, 4096)
    for head_dim in (64, 128):
        for length in lengths:
            for is_causal in (False, True):
                shape = Shape(length, head_dim, is_causal=is_causal)
                yield from _rows(shape, chip, 10 if full else 5)


def _rows(shape: Shape, chip: str, repeats: int) -> Iterator[Row]:
    for name, attend in _libraries(shape).items():
        row: Row = {
            "library": name,
            "chip": chip,
            "length": shape.length,
            "head_dim": shape.head_dim,
            "causal": shape.is_causal,
        }
        forward, backward = (
            _mlx_ms(shape, repeats)
            if attend is None
            else _torch_ms(attend, shape, repeats)
        )
        row.update(forward_ms=forward, backward_ms=backward)
        yield row


def _libraries(shape: Shape) -> dict[str, Attend | None]:
    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return orchard_ops.flash_attention(q, k, v, is_causal=shape.is_causal)

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=shape.is_causal
        )

    found: dict[str, Attend | None] = {"orchard_ops": ours, "torch SDPA": sdpa}
    if importlib.util.find_spec(PEERS["mps-flash-attn"]) is not None:
        peer = importlib.import_module(PEERS["mps-flash-attn"])
        found["mps-flash-attn"] = lambda q, k, v: peer.flash_attention(
            q, k, v, is_causal=shape.is_causal
        )
    if importlib.util.find_spec("mlx") is not None:
        found["mlx"] = None  # arrays of its own
    return found


def _torch_ms(attend: Attend, shape: Shape, repeats: int) -> tuple[float, float]:
    size = (1, shape.heads, shape.length, shape.head_dim)
    q, k, v, grad = (
        torch.randn(size, dtype=shape.dtype, device="mps") for _ in range(4)
    )
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    forward, backward = [], []
    for _ in range(repeats + 1):  # the first compiles
        torch.mps.synchronize()
        started = time.perf_counter()
        out = attend(*leaves)
        torch.mps.synchronize()
        halfway = time.perf_counter()
        torch.autograd.grad(out, leaves, grad)
        torch.mps.synchronize()
        forward.append(halfway - started)
        backward.append(time.perf_counter() - halfway)
    return tuple(1e3 * statistics.median(t[1:]) for t in (forward, backward))  # type: ignore[return-value]


def _mlx_ms(shape: Shape, repeats: int) -> tuple[float, float | None]:
    """Time MLX's forward; its fused kernel has no backward to time beside ours."""
    mx = importlib.import_module(PEERS["mlx"])
    size = (1, shape.heads, shape.length, shape.head_dim)
    q, k, v = (mx.random.normal(size).astype(mx.float16) for _ in range(3))
    mx.eval(q, k, v)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        mx.eval(
            mx.fast.scaled_dot_product_attention(
                q,
                k,
                v,
                scale=shape.head_dim**-0.5,
                mask="causal" if shape.is_causal else None,
            )
        )
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[1:]), None


def _this_chip() -> str:
    """Return the name of this Mac's chip, such as "Apple M2 Pro"."""
    command = ("sysctl", "-n", "machdep.cpu.brand_string")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
