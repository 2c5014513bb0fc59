"""Attention from its definition, in float64 on the CPU, and how far off one may be.

Independent of orchard_ops: nothing here imports it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from cases import CANCELLATION, DRAWS, FLOOR, LSE_ROUNDING, MATH_FACTOR, Case
from torch import Tensor


@dataclass(frozen=True)
class Results:
    """Everything that attention and its backward produce."""

    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of each result."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


@dataclass(frozen=True)
class Inputs:
    """q, k, v and the gradient of the output, on the CPU in the case's dtype."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor


def make_inputs(case: Case, draw_index: int = 0) -> Inputs:
    """Draw normal inputs, seeded by the case's name and the draw's number."""
    seed = zlib.crc32(case.name.encode()) + draw_index
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, length: int, size: int) -> Tensor:
        shape = (case.batch, length, size)
        if case.ndim == 4:
            shape = (case.batch, heads, length, size)  # type: ignore[assignment]
        return torch.randn(shape, generator=generator).to(case.dtype)

    return Inputs(
        q=draw(case.heads_q, case.len_q, case.head_dim),
        k=draw(case.heads_kv, case.len_kv, case.head_dim),
        v=draw(case.heads_kv, case.len_kv, case.value_dim),
        grad_out=draw(case.heads_q, case.len_q, case.value_dim),
    )


def keep_mask(len_q: int, len_kv: int, causal: str) -> Tensor:
    """Return [len_q, len_kv], True where query row attends to key column."""
    keep = torch.ones(len_q, len_kv, dtype=torch.bool)
    if causal == "none":
        return keep
    return keep.tril(len_kv - len_q if causal == "bottom-right" else 0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: str
) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of float64 tensors, 3-D or 4-D, row by definition.

    Weights are exp(score - row maximum) over the attended keys only, divided
    by their sum; a row without keys is zero and has lse -inf.
    """
    if q.dim() == 3:
        out, lse = attend(q[:, None], k[:, None], v[:, None], scale, causal)
        return out[:, 0], lse[:, 0]
    group = q.size(1) // max(k.size(1), 1)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if q.numel() == 0 or k.size(2) == 0:
        return q.new_zeros(*q.shape[:3], v.size(3)), q.new_full(q.shape[:3], -torch.inf)
    keep = keep_mask(q.size(2), k.size(2), causal)
    scores = scale * torch.einsum("bhid,bhjd->bhij", q, k)
    top = scores.detach().masked_fill(~keep, -torch.inf).amax(-1, keepdim=True)
    top = top.masked_fill(~keep.any(-1, keepdim=True), 0.0)
    weights = torch.exp((scores - top).masked_fill(~keep, -torch.inf))
    total = weights.sum(-1, keepdim=True)
    is_dead = total == 0
    out = torch.einsum("bhij,bhje->bhie", weights / total.masked_fill(is_dead, 1.0), v)
    lse = (torch.log(total.detach()) + top).squeeze(-1)
    return out, lse


def solve(case: Case, inputs: Inputs) -> Results:
    """Return the float64 results for a case, gradients by autograd."""
    q, k, v = (t.double().requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    out, lse = attend(q, k, v, case.scale_value, case.causal)
    # Tied to the inputs even where there is nothing to attend to.
    tied = out + 0.0 * (q.sum() + k.sum() + v.sum())
    dq, dk, dv = torch.autograd.grad(tied, (q, k, v), inputs.grad_out.double())
    return Results(out.detach(), lse, dq, dk, dv)


def solve_in_dtype(case: Case, inputs: Inputs) -> Results:
    """Return what plain PyTorch operators give in the case's own dtype.

    Every operator rounds its result to that dtype, as PyTorch's math attention
    does.  16-bit products and softmax are taken in float32 and rounded: the same
    numbers, and old PyTorch has none for float16 on the CPU.
    """
    q, k, v = (t.clone().requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    heads = 1 if case.ndim == 3 else case.heads_q // max(case.heads_kv, 1)
    keys = k if heads == 1 else k.repeat_interleave(heads, 1)
    values = v if heads == 1 else v.repeat_interleave(heads, 1)
    keep = keep_mask(case.len_q, case.len_kv, case.causal)
    scores = _product(q, keys.transpose(-1, -2)) * case.scale_value
    is_dead = ~keep.any(-1, keepdim=True)
    scores = scores.masked_fill(~(keep | is_dead), -torch.inf)
    weights = torch.softmax(scores.float(), -1).to(case.dtype)
    out = _product(weights.masked_fill(is_dead, 0.0), values)
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), inputs.grad_out)
    lse = torch.logsumexp(scores.detach().float(), -1)
    lse = lse.masked_fill(is_dead.squeeze(-1), -torch.inf)
    return Results(out.detach(), lse, dq, dk, dv)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a.float(), b.float()).to(a.dtype)


def assert_close(case: Case, inputs: Inputs, actual: Results) -> None:
    """Fail unless each result is as near to float64 as the tolerances ask."""
    expected = solve(case, inputs)
    math_errors = _math_errors(case, inputs, expected)
    sizes = _natural_sizes(case, inputs)
    weight_error = LSE_ROUNDING * largest(_finite(expected.lse))
    for name, want in expected.items():
        got = getattr(actual, name).detach().cpu()
        assert got.shape == want.shape, (name, got.shape, want.shape)
        assert torch.equal(torch.isneginf(got), torch.isneginf(want)), name
        want = _finite(want)
        error = largest(_finite(got.double()) - want)
        dtype = torch.float32 if name == "lse" else case.dtype
        allowed = max(
            MATH_FACTOR * math_errors[name],
            FLOOR[dtype] * largest(want),
            CANCELLATION * sizes[name],
            weight_error * sizes[name] if name.startswith("d") else 0.0,
        )
        assert error <= allowed, (
            f"{case.name}: {name} is off by {error:.3g}, allowed {allowed:.3g} "
            f"(plain operators: {math_errors[name]:.3g})"
        )


def _math_errors(case: Case, inputs: Inputs, exact: Results) -> dict[str, float]:
    """Return the largest error of plain operators over several draws of a case."""
    errors = dict.fromkeys((name for name, _ in exact.items()), 0.0)
    for index in range(DRAWS):
        if index:
            inputs = make_inputs(case, index)
            exact = solve(case, inputs)
        plain = solve_in_dtype(case, inputs)
        for name, want in exact.items():
            got = _finite(getattr(plain, name).double())
            errors[name] = max(errors[name], largest(got - _finite(want)))
    return errors


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude; NaN counts as infinite."""
    if not tensor.numel():
        return 0.0
    return float(tensor.abs().masked_fill(tensor.isnan(), torch.inf).max())


def _finite(tensor: Tensor) -> Tensor:
    """Put 0 for -inf, which only rows that attend to nothing have in their lse."""
    return tensor.masked_fill(torch.isneginf(tensor), 0.0)


def _natural_sizes(case: Case, inputs: Inputs) -> dict[str, float]:
    """Return the size of the terms that each result is a sum of."""
    q, k, v, g = (
        largest(t.double()) for t in (inputs.q, inputs.k, inputs.v, inputs.grad_out)
    )
    scale = abs(case.scale_value)
    product = g * v * case.value_dim**0.5 * scale
    score = scale * q * k * case.head_dim**0.5
    return {"out": v, "lse": score, "dq": product * k, "dk": product * q, "dv": g}
