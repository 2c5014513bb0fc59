"""The same bits on every run and under every schedule of the threads."""

from __future__ import annotations

import pytest
import torch
from cases import Case
from harness import bits, run_case
from reference import make_inputs

import orchard_ops

CASES = [
    Case("deterministic-f32", heads_q=4, heads_kv=2, len_q=45, len_kv=70,
         causal="bottom-right"),
    Case("deterministic-f16", torch.float16, len_q=70, len_kv=70, causal="top-left"),
    # Simdgroups that share a tile add their parts through threadgroup memory.
    Case("deterministic-split", head_dim=128, len_q=20, len_kv=33),
]  # fmt: skip
SCHEDULES = 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_bits_for_every_schedule(case: Case, device: torch.device) -> None:
    """Ten schedule seeds (on mps: ten runs) give the same output and gradients."""
    inputs = make_inputs(case)
    first = None
    for seed in range(SCHEDULES):
        if device.type == "metalsim":
            orchard_ops.sim.seed(seed)
        actual = {name: bits(t) for name, t in run_case(case, inputs, device).items()}
        first = first or actual
        for name, want in first.items():
            assert torch.equal(actual[name], want), (seed, name)
