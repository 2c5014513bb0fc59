"""Gradients only for what asks for them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import Case
from harness import count_calls
from reference import largest, make_inputs, solve

import orchard_ops

CASE = Case("subset", len_q=20, len_kv=12)


@pytest.mark.parametrize(
    "wanted", [w for w in itertools.product([False, True], repeat=3) if any(w)], ids=str
)
def test_each_subset(wanted: tuple[bool, ...], device: torch.device) -> None:
    """Every subset of q, k, v that requires gradients gets them, the rest nothing."""
    inputs = make_inputs(CASE)
    parts: Any = [
        tensor.to(device).requires_grad_(flag)
        for tensor, flag in zip((inputs.q, inputs.k, inputs.v), wanted)
    ]
    orchard_ops.flash_attention(*parts).backward(inputs.grad_out.to(device))
    exact = solve(CASE, inputs)
    for part, flag, want in zip(parts, wanted, (exact.dq, exact.dk, exact.dv)):
        assert (part.grad is not None) == flag
        if flag:
            error = largest(part.grad.cpu().double() - want)
            assert error <= 2e-5 * largest(want)


def test_nothing_requires_gradients(device: torch.device) -> None:
    """Without requires_grad, and under no_grad, no graph is kept."""
    q = torch.randn(1, 1, 8, 64).to(device)
    assert not orchard_ops.flash_attention(q, q, q).requires_grad
    with torch.no_grad():
        out = orchard_ops.flash_attention(q.detach().requires_grad_(), q, q)
    assert not out.requires_grad


def test_one_tensor_in_three_roles(device: torch.device) -> None:
    """A tensor that is q, k and v at once gets the sum of its three gradients."""
    case = Case("roles", len_q=10, len_kv=10)
    inputs = make_inputs(case)
    same = type(inputs)(inputs.q, inputs.q, inputs.q, inputs.grad_out)
    x = inputs.q.to(device).requires_grad_()
    with count_calls() as calls:
        orchard_ops.flash_attention(x, x, x).backward(inputs.grad_out.to(device))
    exact = solve(case, same)
    want = exact.dq + exact.dk + exact.dv
    assert largest(x.grad.cpu().double() - want) <= 2e-5 * largest(want)
    assert (calls.fwd, calls.bwd) == (1, 1)
