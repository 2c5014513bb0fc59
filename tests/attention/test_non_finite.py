"""NaN and infinity reach exactly the rows that they reach in the definition."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from harness import options, run_case
from reference import make_inputs

import orchard_ops

CASE = Case("non-finite", heads_q=2, heads_kv=2, len_q=40, len_kv=40, causal="top-left")
ROW = 21


def test_nan_in_a_query_stays_in_its_row(device: torch.device) -> None:
    """A NaN in one query makes that output row NaN and no other."""
    inputs = make_inputs(CASE)
    inputs.q[0, 1, ROW, 5] = torch.nan
    is_nan = run_case(CASE, inputs, device).out.isnan()
    assert is_nan[0, 1, ROW].all()
    assert int(is_nan.sum()) == CASE.head_dim


def test_nan_in_a_key_reaches_only_later_queries(device: torch.device) -> None:
    """Under a causal mask a NaN key leaves earlier queries and other heads alone."""
    inputs = make_inputs(CASE)
    inputs.k[0, 0, ROW, 5] = torch.nan
    out = run_case(CASE, inputs, device).out
    assert not out[0, 0, :ROW].isnan().any()
    assert out[0, 0, ROW:].isnan().all()
    assert not out[0, 1].isnan().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_values_stay_in_their_column(
    value: float, device: torch.device
) -> None:
    """A value reaches its column of the rows that see it, no other column or head.

    Rows that do not see it may get 0 * NaN, as from torch.matmul.
    """
    inputs = make_inputs(CASE)
    inputs.v[0, 0, ROW, 5] = value
    out = run_case(CASE, inputs, device).out
    seen = out[0, 0, ROW:, 5]
    assert torch.allclose(seen, torch.full_like(seen, value), equal_nan=True)
    assert torch.isfinite(out[0, 0, :, :5]).all()
    assert torch.isfinite(out[0, 0, :, 6:]).all()
    assert torch.isfinite(out[0, 1]).all()


def test_large_scores_do_not_overflow(device: torch.device) -> None:
    """Scores far beyond exp's range give finite results."""
    case = Case("large", len_q=16, len_kv=33, scale=1e4, causal="bottom-right")
    results = run_case(case, make_inputs(case), device)
    for name, tensor in results.items():
        assert torch.isfinite(tensor).all(), name


def test_float16_scores_beyond_its_range(device: torch.device) -> None:
    """Scores above 65504 are held in float32, so float16 inputs survive them."""
    q = torch.full((1, 1, 8, 64), 100.0, dtype=torch.float16).to(device)
    out = orchard_ops.flash_attention(q, q, q, scale=1.0, **options(CASE))
    assert torch.equal(out.cpu(), q.cpu())
