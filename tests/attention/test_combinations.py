"""Several hundred random problems that combine all features, against float64.

``pytest tests/attention/test_combinations.py --combination SEED`` draws others,
``--combination SEED:INDEX`` runs a single one.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from combinations import FEATURES, KINDS, draw_case
from harness import count_calls, run_case
from reference import assert_close, make_inputs

COUNT = 336


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each problem."""
    if "combination" not in metafunc.fixturenames:
        return
    seed, _, index = metafunc.config.getoption("--combination").partition(":")
    indices = [int(index)] if index else range(COUNT)
    metafunc.parametrize(
        "combination", [(int(seed), i) for i in indices], ids=lambda c: f"{c[0]}:{c[1]}"
    )


def test_matches_float64(combination: tuple[int, int], device: torch.device) -> None:
    """Output, lse and every gradient are as near to float64 as the tolerances ask."""
    case = draw_case(*combination)
    print(f"pytest tests/attention/test_combinations.py --combination {case.name}")
    print(case)
    inputs = make_inputs(case)
    with count_calls() as calls:
        actual = run_case(case, inputs, device)
    assert_close(case, inputs, actual)
    assert (calls.bwd, calls.copies) == (calls.fwd, 0)


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(FEATURES, 2)), ids="-".join
)
def test_every_pair_of_features_is_drawn(pair: tuple[str, str]) -> None:
    """Any two features that may be combined are, in some kind of problem."""
    together = [kind for kind in KINDS if kind.features.issuperset(pair)]
    assert bool(together) == (set(pair) != {"mask", "packed"})
