"""A few attentions compared with float64 on the CPU: does this device compute?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import orchard_ops

from .._errors import translate

__all__ = ["CASES", "Case", "all_ok", "row", "self_test"]


@dataclass(frozen=True)
class Case:
    """One attention; ``tolerance`` bounds the largest error of out, dq, dk and dv."""

    name: str
    dtype: torch.dtype
    tolerance: float
    heads: int = 2
    heads_kv: int = 2
    length: int = 17
    head_dim: int = 16
    is_causal: bool = True


# float32: eight roundings of sums over 17 keys, and a few times that for longer
# ones.  The others: four roundings of values up to 4, the largest that these draw.
CASES = (
    Case("float32", torch.float32, 1e-5),
    Case("float32, grouped heads", torch.float32, 1e-5, heads=4),
    Case("float32, head_dim 100", torch.float32, 5e-5, head_dim=100, is_causal=False),
    Case("float16", torch.float16, 4 * 4 * 2**-11, length=40, head_dim=64),
    Case("bfloat16", torch.bfloat16, 4 * 4 * 2**-8, length=40, head_dim=64),
)


def self_test(device: torch.device) -> list[dict[str, Any]]:
    """Run every case on the device.

    Returns:
        A row a case: its fields, ``largest_error`` and ``ok``; or ``error``; or
        ``not_supported``, the reason that `supports` gives.
    """
    return [row(case, device) for case in CASES]


def row(case: Case, device: torch.device) -> dict[str, Any]:
    """Run one case on the device; returns its row of `self_test`."""
    found = asdict(case) | {"dtype": str(case.dtype).rpartition(".")[2]}
    parts = _inputs(case)
    try:
        try:
            q, k, v = (part.to(device) for part in parts[:3])
        except TypeError as error:  # bfloat16, where PyTorch's MPS has none
            return found | {"not_supported": str(error)}
        is_supported, reason = orchard_ops.supports(q, k, v)
        if not is_supported:  # bfloat16 on macOS 13
            return found | {"not_supported": reason}
        found["largest_error"] = _error(parts, case.is_causal, device)
        found["ok"] = found["largest_error"] <= case.tolerance  # False for NaN
    except (orchard_ops.OrchardError, RuntimeError) as error:
        # What fails inside backward passes through autograd untyped.
        known = translate(error) if isinstance(error, RuntimeError) else error
        found.update(ok=False, error=str(known))
    return found


def all_ok(rows: list[dict[str, Any]]) -> bool:
    """Whether every row that the device supports, and at least one, is right."""
    tried = [row["ok"] for row in rows if "not_supported" not in row]
    return bool(tried) and all(tried)


def _inputs(case: Case) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(1, heads, case.length, case.head_dim, generator=generator)
        for heads in (case.heads, case.heads_kv, case.heads_kv, case.heads)
    ]
    return [part.to(case.dtype) for part in parts]


def _error(parts: list[Tensor], is_causal: bool, device: torch.device) -> float:
    exact = _attend_with_gradients([part.double() for part in parts], is_causal)
    actual = _attend_with_gradients([part.to(device) for part in parts], is_causal)
    if device.type == "mps":  # Says what failed there, before results are read.
        orchard_ops.synchronize()
    return max(
        float((got.cpu().double() - want).abs().max())
        for got, want in zip(actual, exact)
    )


def _attend_with_gradients(parts: list[Tensor], is_causal: bool) -> list[Tensor]:
    """Return out, dq, dk and dv for ``[q, k, v, grad_out]``."""
    q, k, v = (part.detach().requires_grad_() for part in parts[:3])
    out = orchard_ops.flash_attention(q, k, v, is_causal=is_causal)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), parts[3])]
