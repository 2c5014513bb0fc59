"""CPU tensors get the same meaning from PyTorch's own operators."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, EMPTY_CASES, Case
from feature_cases import FEATURE_CASES
from harness import options, run_case
from reference import assert_close, make_inputs, solve

import orchard_ops

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [*CASES, *FEATURE_CASES], ids=lambda case: case.name)
def test_matches_float64(case: Case) -> None:
    """The composite is as near to float64 as the kernels must be."""
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, CPU))


@pytest.mark.parametrize("case", EMPTY_CASES, ids=lambda case: case.name)
def test_empty_problems(case: Case) -> None:
    """Empty lengths, batches and heads give empty or zero results."""
    inputs = make_inputs(case)
    actual = run_case(case, inputs, CPU)
    for name, want in solve(case, inputs).items():
        assert torch.equal(getattr(actual, name).double(), want), name


@pytest.mark.parametrize("causal", ["none", "top-left", "bottom-right"])
def test_asking_for_lse_changes_nothing(causal: str) -> None:
    """The output is the same with and without lse, dead rows included."""
    case = Case("lse", heads_q=4, heads_kv=2, len_q=12, len_kv=7, causal=causal)
    inputs = make_inputs(case)
    q, k, v = inputs.q, inputs.k, inputs.v
    asked = options(case)
    with_lse, _ = orchard_ops.flash_attention(q, k, v, return_lse=True, **asked)
    without = orchard_ops.flash_attention(q, k, v, **asked)
    assert torch.allclose(with_lse, without, atol=1e-6)


def test_gradients_are_exact_in_float64() -> None:
    """The composite passes gradcheck, with rows that attend to nothing."""
    parts = [
        torch.randn(1, 2, length, 3, dtype=torch.float64, requires_grad=True)
        for length in (5, 3, 3)
    ]

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        return orchard_ops.flash_attention(
            *tensors, is_causal=True, causal_alignment="bottom-right"
        )

    assert torch.autograd.gradcheck(attend, parts)
