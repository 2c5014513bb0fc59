"""Forward, lse and gradients against float64, over the table of problems."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, EMPTY_CASES, Case
from feature_cases import FEATURE_CASES
from harness import count_calls, options, run_case
from reference import assert_close, make_inputs, solve

import orchard_ops


@pytest.mark.parametrize("case", [*CASES, *FEATURE_CASES], ids=lambda case: case.name)
def test_matches_float64(case: Case, device: torch.device) -> None:
    """Output, lse and gradients are as near to float64 as the tolerances ask."""
    inputs = make_inputs(case)
    with count_calls() as calls:
        actual = run_case(case, inputs, device)
    assert_close(case, inputs, actual)
    assert (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda case: case.name)
def test_empty_problems(case: Case, device: torch.device) -> None:
    """Empty lengths, batches and heads give empty or zero results, no launch."""
    inputs = make_inputs(case)
    expected = solve(case, inputs)
    with count_calls() as calls:
        actual = run_case(case, inputs, device)
    for name, want in expected.items():
        got = getattr(actual, name)
        assert got.shape == want.shape, name
        assert torch.equal(got.double(), want), name
    assert (calls.fwd, calls.bwd) == (0, 0)


def test_rows_without_keys_are_zero(device: torch.device) -> None:
    """Bottom-right causal rows before the first key give zeros and lse -inf."""
    case = Case("dead-rows", len_q=40, len_kv=9, causal="bottom-right")
    actual = run_case(case, make_inputs(case), device)
    dead = slice(0, case.len_q - case.len_kv)
    assert not actual.out[:, :, dead].any()
    assert not actual.dq[:, :, dead].any()
    assert torch.isneginf(actual.lse[:, :, dead]).all()
    assert torch.isfinite(actual.lse[:, :, dead.stop :]).all()


def test_result_types(device: torch.device) -> None:
    """The output has q's dtype and device, lse is float32; both have gradients."""
    q = torch.randn(1, 2, 9, 64).half().to(device).requires_grad_()
    out, lse = orchard_ops.flash_attention(q, q, q, return_lse=True)
    assert (out.dtype, out.device.type) == (torch.float16, device.type)
    assert (lse.dtype, lse.shape) == (torch.float32, (1, 2, 9))
    assert out.requires_grad
    assert lse.requires_grad


def test_scale_defaults_to_the_inverse_root(device: torch.device) -> None:
    """scale=None means 1/sqrt(head_dim)."""
    q, k, v = (torch.randn(1, 1, 16, 64).to(device) for _ in range(3))
    default = orchard_ops.flash_attention(q, k, v)
    assert torch.equal(
        orchard_ops.flash_attention(q, k, v, scale=0.125).cpu(), default.cpu()
    )


def test_backward_runs_twice_on_a_retained_graph(device: torch.device) -> None:
    """A retained graph gives the same gradient bits a second time."""
    case = Case("retained", len_q=12, len_kv=12)
    q, k, v, grad = (t.to(device) for t in make_inputs(case).core)
    q.requires_grad_()
    out = orchard_ops.flash_attention(q, k, v, **options(case))
    (first,) = torch.autograd.grad(out, q, grad, retain_graph=True)
    (second,) = torch.autograd.grad(out, q, grad)
    assert torch.equal(first.cpu(), second.cpu())


def test_double_backward_says_what_to_do(device: torch.device) -> None:
    """Gradients of gradients raise an error that names double backward."""
    q = torch.randn(1, 1, 8, 64).to(device).requires_grad_()
    out = orchard_ops.flash_attention(q, q, q)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        first.sum().backward()
