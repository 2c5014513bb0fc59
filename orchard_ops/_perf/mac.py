"""The benchmark on a Mac: real times beside other libraries', and the model's.

Written without a Mac: neither `gpu` nor `kernels` has run on one.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import orchard_ops

from . import search
from .assumptions import NOMINAL, Assumptions
from .chips import CHIPS, Chip
from .fit import Fit, Measured, fit, measured_in
from .work import Shape

__all__ = ["gpu", "kernels"]

Row = dict[str, Any]
Attend = Callable[..., Tensor]
# What a call asks for so that it launches that kernel and nothing else of its size.
ALONE = {"forward": "", "backward_dkdv": "kv", "backward_dq": "q"}
CALLS = 3  # between two waits
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


def kernels(full: bool) -> Iterator[Row]:
    """Time each kernel alone beside its prediction, and fit the model to the times."""
    name = _this_chip().removeprefix("Apple ")
    chip = next((one for one in CHIPS if one.name == name), None)
    rows = []
    for shape in _kernel_shapes(full):
        for kernel in ALONE:
            call = kernel_call(kernel, shape, torch.device("mps"))
            measured = _call_ms(call, 10 if full else 5)
            rows.append({"kernel": kernel, "chip": name, **_sizes(shape)})
            rows[-1].update(measured_ms=measured)
            if chip is not None:
                rows[-1].update(_compared(kernel, shape, chip, measured))
            yield rows[-1]
    times = measured_in({"suites": {"kernels": rows}})
    if times:  # else the model does not know this chip
        yield from fit_rows(fit(times))


def _kernel_shapes(full: bool) -> list[Shape]:
    lengths = (2048, 8192) if full else (4096,)
    head_dims = (64, 96, 128, 192, 256) if full else (64, 128, 256)
    return [
        Shape(length, head_dim, dtype)
        for length in lengths
        for head_dim in head_dims
        for dtype in (torch.float16, torch.float32)
    ]


def _sizes(shape: Shape) -> Row:
    return {
        "head_dim": shape.head_dim,
        "element_bytes": shape.element_bytes,
        "length": shape.length,
        "heads": shape.heads,
    }


def kernel_call(
    kernel: str, shape: Shape, device: torch.device
) -> Callable[[], object]:
    """Return a call that launches one kernel of those that multiply.

    Args:
        kernel: of ALONE.
        shape: the problem.
        device: where.
    """
    size = (1, shape.heads, shape.length, shape.head_dim)
    q, k, v, grad = (
        torch.randn(size)
        .to(shape.dtype)
        .to(device)
        .requires_grad_(name in ALONE[kernel])
        for name in ("q", "k", "v", "grad")
    )
    leaves = [one for one in (q, k, v) if one.requires_grad]
    if not leaves:
        return lambda: orchard_ops.flash_attention(q, k, v)
    out = orchard_ops.flash_attention(q, k, v)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _call_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first compiles
        orchard_ops.synchronize()
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        orchard_ops.synchronize()
        times.append((time.perf_counter() - started) / CALLS)
    return 1e3 * statistics.median(times[1:])


def _compared(kernel: str, shape: Shape, chip: Chip, measured_ms: float) -> Row:
    """Return the tile that ships and what the model says of it."""
    dim = search.row_for(shape.head_dim)
    tile = search.shipped(kernel, chip.family, dim, shape.element_bytes)
    one = Measured(
        kernel=kernel,
        chip=chip.name,
        tile=tile,
        seconds=1e-3 * measured_ms,
        **_sizes(shape),
    )
    predicted_ms = 1e3 * one.predicted()
    return {
        "tile": [tile.rows, tile.cols, tile.simdgroups, tile.slices],
        "predicted_ms": predicted_ms,
        "measured_of_predicted": measured_ms / predicted_ms,
    }


def fit_rows(found: Fit) -> Iterator[Row]:
    """Yield what a fit found: each unknown, then how well it explains the times."""
    for unknown in fields(Assumptions):
        name = unknown.name
        row = found.ranges[name]
        yield {
            "unknown": name,
            "nominal": getattr(NOMINAL, name),
            "fitted": getattr(found.point, name),
            "from": row.low,
            "to": row.high,
        }
    yield {
        **{
            f"measured_of_predicted_{size}_bytes": factor
            for size, factor in found.factors.items()
        },
        "left_by_the_nominal_point": found.before,
        "left_by_the_fit": found.after,
    }
