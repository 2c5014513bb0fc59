"""Gradients only for what asks for them."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from cases import Case, Mask
from harness import count_calls
from reference import Inputs, Results, largest, make_inputs, solve

import orchard_ops

CASE = Case("subset", len_q=20, len_kv=12)
NAMES = ("q", "k", "v", "attn_mask", "sinks")
WITH_ALL = Case("subset-of-five", heads_q=2, heads_kv=2, len_q=20, len_kv=12,
                mask=Mask("float", "hqk", hidden="none"), sinks="normal")  # fmt: skip


@cache
def problem(case: Case) -> tuple[Inputs, Results]:
    """Return a case's inputs and exact results."""
    inputs = make_inputs(case)
    return inputs, solve(case, inputs)


def subsets(count: int) -> list[tuple[bool, ...]]:
    """Return which of so many inputs require gradients: all but none."""
    return [w for w in itertools.product([False, True], repeat=count) if any(w)]


@pytest.mark.parametrize("wanted", subsets(3), ids=str)
def test_each_subset(wanted: tuple[bool, ...], device: torch.device) -> None:
    """Every subset of q, k, v that requires gradients gets them, the rest nothing."""
    inputs, exact = problem(CASE)
    parts: Any = [
        tensor.to(device).requires_grad_(flag)
        for tensor, flag in zip((inputs.q, inputs.k, inputs.v), wanted)
    ]
    orchard_ops.flash_attention(*parts).backward(inputs.grad_out.to(device))
    for part, flag, want in zip(parts, wanted, (exact.dq, exact.dk, exact.dv)):
        assert (part.grad is not None) == flag
        if flag:
            error = largest(part.grad.cpu().double() - want)
            assert error <= 2e-5 * largest(want)


@pytest.mark.parametrize("create_graph", [False, True], ids=["first", "create-graph"])
@pytest.mark.parametrize("wanted", subsets(5), ids=str)
def test_each_subset_with_mask_and_sinks(
    wanted: tuple[bool, ...], create_graph: bool, device: torch.device
) -> None:
    """Each gradient belongs to its input, whether or not second ones may be asked for.

    With ``create_graph=True`` the gradients pass through a node of their own.
    """
    inputs, exact = problem(WITH_ALL)
    parts: dict[str, Any] = {
        name: getattr(inputs, name).to(device).requires_grad_(flag)
        for name, flag in zip(NAMES, wanted)
    }
    out = orchard_ops.flash_attention(**parts)
    leaves = [part for part in parts.values() if part.requires_grad]
    grad_out = inputs.grad_out.to(device)
    found = torch.autograd.grad(out, leaves, grad_out, create_graph=create_graph)
    everything = (exact.dq, exact.dk, exact.dv, exact.dmask, exact.dsinks)
    expected = [want for want, flag in zip(everything, wanted) if flag]
    for got, want in zip(found, expected):
        assert want is not None
        assert largest(got.cpu().double() - want) <= 2e-5 * largest(want)
        assert got.requires_grad == create_graph


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


def test_what_is_not_there_has_no_gradient(device: torch.device) -> None:
    """The operator may be asked for gradients of a mask and sinks all the same."""
    q, grad_out = (torch.randn(1, 1, 8, 64).to(device) for _ in range(2))
    results = torch.ops.orchard_ops.forward(q, q, q)
    found = torch.ops.orchard_ops.backward(
        grad_out, None, *results, [True] * 5, q, q, q
    )
    assert [each is not None for each in found] == [True, True, True, False, False]
