"""Attention over ranks equals attention in one process, and its gradients do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import BF16, F16, F32, FLOOR, Case, Mask
from draws import make_inputs
from harness import run_case
from needs import skip_without
from parallel import Way, joined, rank_results
from ranks import Fleet
from reference import assert_close, largest, solve

# Four heads, which four ranks can exchange; lengths that nothing divides.
_BASE = Case(
    "", F32, heads_q=4, heads_kv=4, len_q=71, len_kv=71, head_dim=64, grad_lse=True
)
_CAUSAL = replace(_BASE, causal="top-left")
_PACKED = ((17, 17), (1, 1), (40, 40), (0, 0), (9, 9))
CASES = [
    replace(_BASE, name="plain", batch=2),
    replace(_CAUSAL, name="causal", grad_lse=False),
    replace(_CAUSAL, name="grouped", heads_q=8, head_dim_v=40),
    replace(_CAUSAL, name="one-key-head", heads_kv=1, len_q=131, len_kv=131),
    replace(_CAUSAL, name="window", window=(12, 0)),
    replace(_BASE, name="window-alibi-softcap", window=(9, 4), alibi="batch-heads",
            softcap=2.0, batch=2),
    replace(_CAUSAL, name="bool-mask", mask=Mask(dims="bqk")),
    replace(_BASE, name="float-mask", mask=Mask("float"), batch=2),
    replace(_CAUSAL, name="float-mask-of-two", mask=Mask("float", dims="qk", rank=2)),
    replace(_BASE, name="bias-of-keys", mask=Mask("float", dims="hk")),
    replace(_CAUSAL, name="sinks", sinks="normal"),
    replace(_CAUSAL, name="dropout", dropout=0.3, heads_q=8, batch=2),
    replace(_CAUSAL, name="packed", sequences=_PACKED, rest=4),
    replace(_CAUSAL, name="packed-everything", sequences=_PACKED, rest=4,
            window=(20, 0), alibi="batch-heads", softcap=3.0, sinks="normal",
            dropout=0.2),
    replace(_CAUSAL, name="half", dtype=F16, heads_q=8),
    replace(_BASE, name="bfloat", dtype=BF16, sinks="normal"),
    replace(_CAUSAL, name="three-rows", len_q=3, len_kv=3),
    replace(_BASE, name="one-row", len_q=1, len_kv=1),
]  # fmt: skip
GROUPS = {1: (2,), 2: (1, 3), 3: (0, 1, 3), 4: (0, 1, 2, 3)}
METHODS = ("ring", "all_gather", "heads")


def methods(case: Case, ranks: int) -> list[str]:
    """Return the methods that a case's heads allow."""
    divides = case.heads_q % ranks == case.heads_kv % ranks == 0
    return [method for method in METHODS if method != "heads" or divides]


def check(fleet: Fleet, case: Case, way: Way) -> None:
    """Fail unless the ranks' results are as near to float64 as one process's must be.

    16 bits within twice the error of one process, too.
    """
    actual = joined(case, way, fleet.asked(rank_results, case, way))
    inputs = make_inputs(case)
    assert_close(case, inputs, actual)
    if case.dtype == F32:
        return
    one, exact = run_case(case, inputs, torch.device(way.device)), solve(case, inputs)
    for name, want in exact.items():
        got, alone = (
            largest(getattr(each, name).double() - want) for each in (actual, one)
        )
        # What stays float32 may differ by its rounding.
        is_exact = getattr(actual, name).dtype == F32
        allowed = max(2 * alone, FLOOR[F32] * largest(want) * is_exact)
        assert got <= allowed, f"{name}: {got:.3g}, and {alone:.3g} in one process"


@pytest.mark.parametrize("ranks", GROUPS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ranks_give_what_one_process_gives(
    fleet: Fleet, case: Case, ranks: int
) -> None:
    """Output, lse and every gradient, for each method and layout, on the CPU."""
    for method in methods(case, ranks):
        for layout in ("zigzag", "contiguous"):
            check(fleet, case, Way(GROUPS[ranks], method, layout))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernels_give_it_too(
    fleet: Fleet, case: Case, device: torch.device
) -> None:
    """On the device, whose tensors gloo does not take: a method for each number."""
    skip_without(case.dtype, device)
    number = CASES.index(case)
    for ranks in (2, 3, 4):
        allowed = methods(case, ranks)
        method = allowed[(number + ranks) % len(allowed)]
        check(fleet, case, Way(GROUPS[ranks], method, device=device.type))


def test_eight_ranks_are_as_near_as_two(tmp_path: Path) -> None:
    """Errors do not grow with the ranks, because partial results are float32."""
    chosen = [case for case in CASES if case.name in ("half", "grouped")]
    with Fleet(8, tmp_path) as eight:
        for case in chosen:
            for method in METHODS:
                if case.heads_kv == 8 or method != "heads":
                    check(eight, case, Way((0, 1, 2, 3, 4, 5, 6, 7), method))
