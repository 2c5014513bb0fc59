"""The tiles of newer GPUs: the other tests run those of class A."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cases import CASES, Case
from feature_cases import FEATURE_CASES
from harness import run_case
from reference import assert_close, make_inputs

import orchard_ops
from orchard_ops import sim

# Every kernel and feature, with other lengths and head sizes than its neighbors.
SOME = [*CASES, *FEATURE_CASES][::5]


@pytest.fixture
def newer(device: torch.device) -> Iterator[torch.device]:
    """Make the simulator a GPU of class B."""
    if device.type != sim.DEVICE:
        pytest.skip("a real GPU has the class that it has")
    with sim.family("B"):
        yield device


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_class_b_matches_float64(case: Case, newer: torch.device) -> None:
    """Results with class B's tiles keep the same tolerances."""
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, newer))


def test_the_class_changes_back() -> None:
    """A class holds for its block, and there are three."""
    sim.enable()
    before = sim.family()
    with sim.family("C"):
        assert sim.family() == "C"
    assert sim.family() == before
    with pytest.raises(orchard_ops.InvalidProblemError, match="'A', 'B', 'C'"):
        sim.family("D")
