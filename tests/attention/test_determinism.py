"""The same bits on every run and under every schedule of the threads."""

from __future__ import annotations

import pytest
import torch
from cases import Case, Mask
from harness import bits, run_case
from reference import make_inputs

import orchard_ops

CASES = [
    Case("deterministic-f32", heads_q=4, heads_kv=2, len_q=45, len_kv=70,
         causal="bottom-right"),
    Case("deterministic-f16", torch.float16, len_q=70, len_kv=70, causal="top-left"),
    # Simdgroups that share a tile add their parts through threadgroup memory.
    Case("deterministic-split", head_dim=128, len_q=20, len_kv=33),
    Case("deterministic-dropout", torch.float16, heads_q=4, heads_kv=2, len_q=37,
         len_kv=70, dropout=0.3),
    # Sums over batch, heads and rows go into one gradient of the mask, and of the sink.
    Case("deterministic-bias", batch=2, heads_q=4, heads_kv=2, len_q=37, len_kv=45,
         mask=Mask("float", "k"), sinks="normal", dropout=0.2),
    Case("deterministic-all", torch.bfloat16, batch=2, heads_q=2, heads_kv=1, len_q=37,
         len_kv=45, mask=Mask("bool", hidden="tiles"), window=(30, 9), softcap=3.0,
         alibi="batch-heads", sinks="normal", dropout=0.2),
    Case("deterministic-packed", heads_q=4, heads_kv=2, dropout=0.2,
         sequences=((9, 40), (33, 7), (1, 65)), causal="bottom-right"),
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
