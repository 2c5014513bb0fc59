"""float16 gradients whose scores' gradients leave the range of float16."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import F16, Case, Mask
from harness import run_case
from reference import Inputs, Results, largest, make_inputs, solve

import orchard_ops

PLENTY = 1 << 30
# The largest true gradient of q is some hundreds; the scores' gradients, millions.
WIDE = Case("wide", F16, len_q=64, len_kv=64, causal="top-left")
FACTORS = (0.1, 0.01, 100.0, 500.0)  # of q, k, v and grad_out


def scaled(case: Case, factors: tuple[float, ...] = FACTORS) -> Inputs:
    """Return a case's inputs times factors."""
    inputs = make_inputs(case)
    names = ("q", "k", "v", "grad_out")
    changes = {name: getattr(inputs, name) * f for name, f in zip(names, factors)}
    return replace(inputs, **changes)


def errors(actual: Results, exact: Results) -> dict[str, float]:
    """Return the largest error of each gradient, relative to its largest element."""
    return {
        name: largest(getattr(actual, name).double() - want) / largest(want)
        for name, want in exact.items()
        if name.startswith("d")
    }


@pytest.mark.parametrize("max_bytes", [0, PLENTY])
@pytest.mark.parametrize(
    "changes",
    [
        *({}, dict(heads_q=4, heads_kv=2, batch=2), dict(head_dim=256)),
        *(dict(dropout=0.2), dict(mask=Mask("float", "qk", hidden="none"))),
        dict(sequences=((20, 40), (44, 24))),
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_gradients_that_fit_are_right(
    changes: dict[str, Any], max_bytes: int, device: torch.device
) -> None:
    """They are as near to float64 as rounding to float16 lets them be."""
    case = replace(WIDE, **changes)
    inputs = scaled(case)
    if "mask" in changes:  # whose own gradient is to fit as well
        inputs = scaled(case, (1.0, 1.0, 20.0, 30.0))
    with orchard_ops.backward_scratch(max_bytes):
        first, second = (run_case(case, inputs, device) for _ in range(2))
    exact = solve(case, inputs)
    for name, error in errors(first, exact).items():
        assert error < 4 * 2.0**-11, (name, error)
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("max_bytes", [0, PLENTY, 32 * 1100 * 3])
def test_columns_of_very_different_sizes(max_bytes: int, device: torch.device) -> None:
    """Keys with large values, small ones and again large ones, in several rounds."""
    case = replace(WIDE, len_q=20, len_kv=2300, causal="none")
    inputs = scaled(case)
    v = inputs.v.clone()
    v[:, :, 500:1500] *= 2.0**-12
    inputs = replace(inputs, v=v)
    with orchard_ops.backward_scratch(max_bytes):
        actual = run_case(case, inputs, device)
    exact = solve(case, inputs)
    for name, error in errors(actual, exact).items():
        assert error < 4 * 2.0**-11, (name, error)
    # The gradients of the keys in between come out by their own size.
    small = slice(500, 1500)
    got, want = actual.dk[:, :, small].double(), exact.dk[:, :, small]
    assert largest(got - want) < 8 * 2.0**-11 * largest(want)


@pytest.mark.parametrize("max_bytes", [0, PLENTY])
def test_small_gradients_keep_their_digits(
    max_bytes: int, device: torch.device
) -> None:
    """Gradients of scores far below float16's least number still count."""
    case = replace(WIDE, name="small", causal="none")
    inputs = scaled(case, (0.1, 100.0, 1.0, 2.0**-20))
    with orchard_ops.backward_scratch(max_bytes):
        actual = run_case(case, inputs, device)
    exact = solve(case, inputs)
    error = largest(actual.dq.double() - exact.dq) / largest(exact.dq)
    assert error < 2.0**-6


@pytest.mark.parametrize("max_bytes", [0, PLENTY])
def test_infinity_stays_in_its_row(max_bytes: int, device: torch.device) -> None:
    """An infinite gradient of a row of out leaves dq of the rows beside it alone."""
    case = replace(WIDE, name="infinite", len_q=20, len_kv=20)
    inputs = make_inputs(case)
    grad_out = inputs.grad_out.clone()
    grad_out[:, :, 5, 3] = torch.inf
    with orchard_ops.backward_scratch(max_bytes):
        actual = run_case(case, replace(inputs, grad_out=grad_out), device)
        without = run_case(case, inputs, device)
    assert not torch.isfinite(actual.dq[:, :, 5]).any()
    others = [row for row in range(20) if row != 5]
    assert torch.equal(actual.dq[:, :, others], without.dq[:, :, others])
