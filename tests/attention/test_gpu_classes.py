"""The tiles of newer GPUs: the other tests run those of class A."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases import CASES, Case
from feature_cases import FEATURE_CASES, WIDE_HEADS
from harness import run_case
from needs import needs_metalsim, skip_without_metalsim
from reference import assert_close, make_inputs

import orchard_ops
from orchard_ops import sim

# Every kernel and feature, with other lengths and head sizes than its neighbors.
# Of wide heads, each has tiles of its own in each dtype.
NARROW = [*CASES, *FEATURE_CASES[: -len(WIDE_HEADS)]]
SOME = [*NARROW[::5], *FEATURE_CASES[-len(WIDE_HEADS) :][:6]]


@pytest.fixture
def newer(device: torch.device) -> Iterator[torch.device]:
    """Make the simulator a GPU of class B."""
    skip_without_metalsim("families")
    with sim.family("B"):
        yield device


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_class_b_matches_float64(case: Case, newer: torch.device) -> None:
    """Results with class B's tiles keep the same tolerances."""
    inputs = make_inputs(case)
    assert_close(case, inputs, run_case(case, inputs, newer))


@needs_metalsim("families")
def test_the_class_changes_back() -> None:
    """A class holds for its block, and there are three."""
    sim.enable()
    before = sim.family()
    with sim.family("C"):
        assert sim.family() == "C"
    assert sim.family() == before
    with pytest.raises(orchard_ops.InvalidProblemError, match="'A', 'B', 'C'"):
        sim.family("D")


ROUND = """
#include <metal_stdlib>
using namespace metal;
template <int N>
struct Wide;
#include "tile/promoted.h"
kernel void round(device const float* x [[buffer(0)]],
                  device ELEM* y [[buffer(1)]],
                  device float* back [[buffer(2)]],
                  uint i [[thread_position_in_grid]]) {
  float pair[2];
  pair[0] = x[2 * i];
  pair[1] = x[2 * i + 1];
  Wide<2>::store(y + 2 * i, pair);
  Wide<1>::unpack(y[2 * i], pair);
  back[2 * i] = pair[0];
  back[2 * i + 1] = promoted_high(uint(y[2 * i + 1]) << 16);
}
"""


@needs_metalsim("simulator")
def test_class_a_rounds_bfloat_as_pytorch() -> None:
    """To nearest even, over ties, subnormals, infinities, overflow and NaN."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 4096, dtype=np.uint32)
    bits[:1024] = bits[:1024] & 0xFFFF0000 | 0x8000  # halfway
    bits[1024:1032] = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF,
                       0x7FFFFFFF, 0x7F800001, 1]  # fmt: skip
    x = bits.view(np.float32)
    y, back = np.zeros(4096, np.uint16), np.zeros(4096, np.float32)
    sim.compile(ROUND, "round", {"ELEM": "ushort"}).dispatch([x, y, back], 16, 128)
    expected = torch.from_numpy(x).bfloat16().float()
    assert torch.equal(torch.from_numpy(back).isnan(), expected.isnan())
    numbers = ~expected.isnan()
    assert torch.equal(torch.from_numpy(back)[numbers], expected[numbers])
    assert np.array_equal(back.view(np.uint32) >> 16, y)
