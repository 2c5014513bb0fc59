"""Attention from its definition, in float64 on the CPU, and how far off one may be.

Independent of orchard_ops: neither this nor what it imports uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Callable

import torch
from cases import (
    CANCELLATION,
    DRAWS,
    FEWEST_ERRORS,
    FLOOR,
    LSE_ROUNDING,
    MATH_FACTOR,
    MOST_DRAWS,
    Case,
)
from draws import Inputs, make_inputs
from philox import keep_scale
from torch import Tensor

__all__ = [
    "Inputs",
    "Results",
    "assert_close",
    "largest",
    "make_inputs",
    "solve",
    "solve_in_dtype",
]

# An lse beyond this comes from rows that see nothing but the dtype's least number.
HUGE = 1e30


@dataclass(frozen=True)
class Results:
    """Everything that attention and its backward produce."""

    out: Tensor
    lse: Tensor | None  # None where it was not asked for
    dq: Tensor
    dk: Tensor
    dv: Tensor
    dmask: Tensor | None = None
    dsinks: Tensor | None = None

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of each result that there is."""
        for field in fields(self):
            if getattr(self, field.name) is not None:
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True)
class Part:
    """What one dense 4-D problem is computed from; a packed case has several."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    slopes: Tensor | None
    sinks: Tensor | None
    keep: Tensor | None


Attend = Callable[[Case, Part], "tuple[Tensor, Tensor]"]


def window_mask(case: Case, len_q: int, len_kv: int) -> Tensor:
    """Return [len_q, len_kv], True where causal and window let a query see a key."""
    ahead = -_distance(case, len_q, len_kv)
    left, right = case.limits
    keep = torch.ones(len_q, len_kv, dtype=torch.bool)
    if left >= 0:
        keep &= ahead >= -left
    if right >= 0:
        keep &= ahead <= right
    return keep


def _distance(case: Case, len_q: int, len_kv: int) -> Tensor:
    """Return how far each query's own position is behind each key, negated."""
    offset = len_kv - len_q if case.is_bottom_right else 0
    rows = torch.arange(len_q).unsqueeze(1) + offset
    return rows - torch.arange(len_kv)


def attend(case: Case, part: Part) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of float64 tensors, row by definition.

    Weights are exp(score - row maximum) over the attended keys only, divided by their
    sum, in which a sink counts as one more key; without any, out is 0 and lse -inf.
    """
    q, k, v = part.q, part.k, part.v
    group = q.size(1) // max(k.size(1), 1)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = case.scale_value * torch.einsum("bhid,bhjd->bhij", q, k)
    keep = window_mask(case, q.size(2), k.size(2)).expand(scores.shape)
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    if part.slopes is not None:
        slopes = part.slopes.double()[..., None, None]
        scores = scores - slopes * _distance(case, q.size(2), k.size(2)).abs()
    if part.mask is not None and part.mask.dtype == torch.bool:
        keep = keep & part.mask
    elif part.mask is not None:
        keep = keep & (part.mask != -torch.inf)
        scores = scores + part.mask
    columns = scores.masked_fill(~keep, -torch.inf)
    if part.sinks is not None:
        sinks = part.sinks[:, None, None].expand(*scores.shape[:3], 1)
        columns = torch.cat([columns, sinks], -1)
    top = columns.detach().amax(-1, keepdim=True) if columns.size(-1) else 0.0 * q
    top = top[..., :1].masked_fill(torch.isneginf(top[..., :1]), 0.0)
    terms = torch.exp(columns - top)
    total = terms.sum(-1, keepdim=True)
    lse = (torch.log(total.masked_fill(total == 0, 1.0)) + top).squeeze(-1)
    lse = lse.masked_fill((total == 0).squeeze(-1), -torch.inf)
    weights = terms / total.masked_fill(total == 0, 1.0)
    weights = weights[..., : k.size(2)]
    if part.keep is not None:
        weights = weights * part.keep * keep_scale(case.dropout)
    return torch.einsum("bhij,bhje->bhie", weights, v), lse


def attend_in_dtype(case: Case, part: Part) -> tuple[Tensor, Tensor]:
    """Return (out, lse) from plain PyTorch operators in the tensors' own dtype.

    Products, weights and dropout are rounded to it, as PyTorch's math attention does;
    16-bit products are taken in float32 and rounded, because old PyTorch has none on
    the CPU, and what is done to scores is done in float32, as a careful user would.
    """
    scores, v, is_dead, lse = _columns_in_dtype(case, part)
    weights = torch.softmax(scores, -1)[..., : v.size(2)].to(v.dtype)
    weights = weights.masked_fill(is_dead, 0.0)
    if part.keep is not None:
        weights = weights * part.keep * keep_scale(case.dropout)
    return _product(weights, v), lse


def attend_in_steps(case: Case, part: Part) -> tuple[Tensor, Tensor]:
    """Do as attend_in_dtype, but for a backward by the formulas of FlashAttention."""
    scores, v, is_dead, lse = _columns_in_dtype(case, part)
    factor = torch.ones(())
    if part.keep is not None:
        factor = part.keep * keep_scale(case.dropout)
    return Steps.apply(scores, v, is_dead, factor), lse


class Steps(torch.autograd.Function):
    """Softmax and product in FlashAttention's order (Dao, arXiv:2307.08691).

    The sum divides the product, not the weights; backward takes sum(weights *
    dweights) as sum(grad_out * out), which with a rounded output no longer cancels
    what it cancels in autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, v: Tensor, is_dead: Tensor, factor: Tensor
    ) -> Tensor:
        top = scores.amax(-1, keepdim=True) if scores.numel() else scores[..., :1]
        terms = torch.exp(scores - top)
        terms = terms.masked_fill(is_dead, 0.0)
        total = terms.sum(-1, keepdim=True).masked_fill(is_dead, 1.0)
        dropped = (terms[..., : v.size(2)] * factor).to(v.dtype)
        out = (torch.matmul(dropped.float(), v.float()) / total).to(v.dtype)
        weights = terms / total
        dropped = (weights[..., : v.size(2)] * factor).to(v.dtype)
        ctx.save_for_backward(weights, dropped, v, out, factor)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        weights, dropped, v, out, factor = ctx.saved_tensors
        grad, values = grad_out.float(), v.float()
        dweights = torch.matmul(grad, values.transpose(-1, -2)) * factor
        rest = weights.size(-1) - dweights.size(-1)  # a sink, whose value is 0
        dweights = torch.nn.functional.pad(dweights, (0, rest))
        delta = (grad * out.float()).sum(-1, keepdim=True)
        dv = _product(dropped.transpose(-1, -2), grad_out)
        return weights * (dweights - delta), dv, None, None


def _columns_in_dtype(case: Case, part: Part) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return float32 scores, v for each query head, rows without keys, and lse."""
    q, k, v = part.q, part.k, part.v
    group = q.size(1) // max(k.size(1), 1)
    if group != 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (_product(q, k.transpose(-1, -2)) * case.scale_value).float()
    keep = window_mask(case, q.size(2), k.size(2)).expand(scores.shape)
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    if part.slopes is not None:
        distance = _distance(case, q.size(2), k.size(2)).abs()
        scores = scores - part.slopes[..., None, None] * distance
    if part.mask is not None and part.mask.dtype == torch.bool:
        keep = keep & part.mask
    elif part.mask is not None:
        keep = keep & (part.mask != -torch.inf)
        scores = scores + part.mask.float()
    is_dead = ~keep.any(-1, keepdim=True)
    if part.sinks is not None:
        sinks = part.sinks[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
        keep = torch.cat([keep, ~torch.isneginf(sinks)], -1)
    has_nothing = ~keep.any(-1, keepdim=True)
    scores = scores.masked_fill(~keep, -torch.inf).masked_fill(has_nothing, 0.0)
    lse = _log_sum_exp(scores).masked_fill(has_nothing.squeeze(-1), -torch.inf)
    return scores, v, is_dead, lse


def _log_sum_exp(scores: Tensor) -> Tensor:
    """Return torch.logsumexp, whose own gradient is wrong where scores are huge."""
    if not scores.size(-1):
        return torch.logsumexp(scores, -1)
    top = scores.detach().amax(-1, keepdim=True)
    return (torch.log(torch.exp(scores - top).sum(-1, keepdim=True)) + top).squeeze(-1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a.float(), b.float()).to(a.dtype)


def solve(case: Case, inputs: Inputs) -> Results:
    """Return the float64 results for a case, gradients by autograd."""
    return _differentiate(case, inputs, attend, Tensor.double)


def solve_in_dtype(case: Case, inputs: Inputs) -> Iterator[Results]:
    """Yield what plain PyTorch operators give in the case's own dtype.

    With autograd's backward and, where rounding makes a difference, FlashAttention's.
    """
    yield _differentiate(case, inputs, attend_in_dtype, Tensor.clone)
    if case.dtype != torch.float32:
        yield _differentiate(case, inputs, attend_in_steps, Tensor.clone)


def _differentiate(
    case: Case, inputs: Inputs, function: Attend, cast: Callable[[Tensor], Tensor]
) -> Results:
    """Run a function on the inputs as leaves, for its results and gradients."""
    sources = (inputs.q, inputs.k, inputs.v, inputs.attn_mask, inputs.sinks)
    q, k, v, mask, sinks = (
        None
        if source is None
        else cast(source.detach()).requires_grad_()
        if source.is_floating_point()
        else source
        for source in sources
    )
    out, lse = _run_parts(case, function, inputs, q, k, v, mask, sinks)
    leaves = [
        leaf for leaf in (q, k, v, mask, sinks) if leaf is not None and leaf.is_leaf
    ]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    nothing = q[..., :0].sum()  # a gradient even where nothing is attended to
    outputs, grads = [out + nothing], [cast(inputs.grad_out)]
    if inputs.grad_lse is not None:
        outputs.append(lse + nothing)
        grads.append(inputs.grad_lse.to(lse.dtype))
    found = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
    gradients = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found)
    ]
    dq, dk, dv = gradients[:3]
    rest = gradients[3:]
    dmask = rest.pop(0) if mask is not None and mask.requires_grad else None
    dsinks = rest.pop(0) if sinks is not None else None
    return Results(out.detach(), lse.detach(), dq, dk, dv, dmask, dsinks)


def _run_parts(
    case: Case,
    function: Attend,
    inputs: Inputs,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cut a case into dense 4-D problems and put their results together."""
    slopes, keep = inputs.alibi_slopes, inputs.keep or (None,)
    if case.sequences:
        return _run_sequences(case, function, inputs, (q, k, v), sinks)
    leading = q.shape[:-2]
    q, k, v = (_with_four_dims(tensor, case.ndim) for tensor in (q, k, v))
    if mask is not None and mask.dim() == case.ndim:
        mask = _with_four_dims(mask, case.ndim)
    out, lse = function(case, Part(q, k, v, mask, slopes, sinks, keep[0]))
    return out.reshape(*leading, *out.shape[2:]), lse.reshape(*leading, lse.size(2))


def _with_four_dims(tensor: Tensor, rank: int) -> Tensor:
    if rank == 5:
        return tensor.flatten(0, 1)
    if rank == 4:
        return tensor
    return tensor.unsqueeze(-3) if rank == 3 else tensor[None, None]


def _run_sequences(
    case: Case,
    function: Attend,
    inputs: Inputs,
    packed: tuple[Tensor, ...],
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Solve each packed sequence alone; tokens of none get 0 and -inf."""
    starts = [0, 0]
    outs, lses = [], []
    for index, (len_q, len_kv) in enumerate(case.sequences):
        lengths = (len_q, len_kv, len_kv)
        begins = (starts[0], starts[1], starts[1])
        q, k, v = (
            tensor[begin : begin + length].transpose(0, 1).unsqueeze(0)
            for tensor, begin, length in zip(packed, begins, lengths)
        )
        slopes = inputs.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index : index + 1]
        keep = inputs.keep[index] if inputs.keep else None
        out, lse = function(case, Part(q, k, v, None, slopes, sinks, keep))
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
        starts = [starts[0] + len_q, starts[1] + len_kv]
    q, v = packed[0], packed[2]
    outs.append(q.new_zeros(case.rest, case.heads_q, v.size(-1)))
    lses.append(q.new_full((case.heads_q, case.rest), -torch.inf))
    return torch.cat(outs), torch.cat(lses, 1)


def assert_close(case: Case, inputs: Inputs, actual: Results) -> None:
    """Fail unless each result is as near to float64 as the tolerances ask."""
    expected = solve(case, inputs)
    math_errors = _math_errors(case, inputs, expected)
    sizes = _natural_sizes(case, inputs)
    weight_error = LSE_ROUNDING * largest(_moderate(expected.lse))
    for name, want in expected.items():
        got = getattr(actual, name)
        if name == "lse" and got is None:
            continue
        assert got is not None, f"{case.name}: there is no {name}"
        got = got.detach().cpu()
        assert got.shape == want.shape, (name, got.shape, want.shape)
        dtype = _dtype_of(name, case, inputs)
        assert got.dtype == dtype or case.dtype == torch.float64, (name, got.dtype)
        assert torch.equal(torch.isneginf(got), torch.isneginf(want)), name
        _assert_huge_alike(case, got, want)
        want = _moderate(want)
        error = largest(_moderate(got.double()) - want)
        allowed = max(
            MATH_FACTOR * math_errors[name],
            FLOOR[_coarsest(name, case, inputs)] * largest(want),
            CANCELLATION * sizes[name],
            weight_error * sizes[name] if name.startswith("d") else 0.0,
        )
        assert error <= allowed, (
            f"{case.name}: {name} is off by {error:.3g}, allowed {allowed:.3g} "
            f"(plain operators: {math_errors[name]:.3g})"
        )


def _dtype_of(name: str, case: Case, inputs: Inputs) -> torch.dtype:
    if name == "dmask":
        return inputs.attn_mask.dtype
    return torch.float32 if name in ("lse", "dsinks") else case.dtype


def _coarsest(name: str, case: Case, inputs: Inputs) -> torch.dtype:
    """Return the dtype that a result passes through.

    A mask's gradient may be summed from score gradients of q's dtype; autograd rounds
    those of out alike, but not those of lse.
    """
    if name == "dmask" and inputs.grad_lse is not None:
        return case.dtype
    return _dtype_of(name, case, inputs)


def _math_errors(case: Case, inputs: Inputs, exact: Results) -> dict[str, float]:
    """Return the largest error of plain operators over several draws of a case."""
    draws = {name: _draws(case, want) for name, want in exact.items()}
    errors = dict.fromkeys(draws, 0.0)
    for index in range(max(draws.values())):
        if index:
            inputs = make_inputs(case, index)
            exact = solve(case, inputs)
        for plain in solve_in_dtype(case, inputs):
            for name, want in exact.items():
                if index < draws[name]:
                    got = _moderate(getattr(plain, name).double())
                    errors[name] = max(errors[name], largest(got - _moderate(want)))
    return errors


def _draws(case: Case, result: Tensor) -> int:
    """Return how many inputs are drawn; more where a result is a few rounded numbers.

    The gradient of sinks has one for each head, and the largest error of ten is no
    measure of what the next ten may have.
    """
    if case.dtype == torch.float32:
        return DRAWS
    return max(DRAWS, min(MOST_DRAWS, FEWEST_ERRORS // max(result.numel(), 1)))


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude; NaN counts as infinite."""
    if not tensor.numel():
        return 0.0
    return float(tensor.abs().masked_fill(tensor.isnan(), torch.inf).max())


def _moderate(tensor: Tensor) -> Tensor:
    """Put 0 for an lse of rows that see nothing, or only the least finite number."""
    return tensor.masked_fill(tensor < -HUGE, 0.0)


def _assert_huge_alike(case: Case, got: Tensor, want: Tensor) -> None:
    is_huge = (want < -HUGE) & ~torch.isneginf(want)
    error = largest(got[is_huge].double() / want[is_huge] - 1.0)
    assert error <= 1e-5, f"{case.name}: a huge lse is off by a factor 1 + {error:.3g}"


def _natural_sizes(case: Case, inputs: Inputs) -> dict[str, float]:
    """Return the size of the terms that each result is a sum of."""
    boost = keep_scale(case.dropout)
    q, k, v, g = (largest(t.double()) for t in inputs.core)
    scale = abs(case.scale_value)
    product = g * v * case.value_dim**0.5 * boost
    if inputs.grad_lse is not None:
        product += largest(inputs.grad_lse)
    score = scale * q * k * case.head_dim**0.5
    if case.softcap:
        score = min(score, case.softcap)
    for extra in (inputs.attn_mask, inputs.sinks):
        if extra is not None and extra.is_floating_point():
            score += largest(_moderate(extra.double()))
    if inputs.alibi_slopes is not None:
        lengths = case.sequences or ((case.len_q, case.len_kv),)
        score += largest(inputs.alibi_slopes) * max(map(max, lengths))
    return {
        "out": v * boost,
        "lse": score,
        "dq": product * scale * k,
        "dk": product * scale * q,
        "dv": g * boost,
        "dmask": product,
        "dsinks": product,
    }
