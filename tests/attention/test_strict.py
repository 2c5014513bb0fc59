"""The attention kernels under the simulator's strict mode."""

from __future__ import annotations

import contextlib

import pytest
import torch
from cases import Case, Mask
from harness import count_calls, run_case
from reference import assert_close, make_inputs

import orchard_ops

CASES = [
    Case("strict-f32", heads_q=4, heads_kv=2, len_q=21, len_kv=37,
         causal="bottom-right"),
    Case("strict-split", head_dim=100, len_q=19, len_kv=18),
    Case("strict-bf16-ragged", torch.bfloat16, head_dim=33, len_q=18, len_kv=35),
    Case("strict-bool", torch.float16, batch=2, heads_q=2, heads_kv=1, len_q=21,
         len_kv=37, mask=Mask("bool", hidden="tiles", layout="sliced"), window=(9, 9)),
    Case("strict-bias", batch=2, heads_q=2, heads_kv=2, len_q=21, len_kv=37,
         mask=Mask("float", "hqk", layout="transposed"), dropout=0.2, sinks="normal"),
    Case("strict-bias-summed", torch.float16, batch=2, heads_q=2, heads_kv=2, len_q=21,
         len_kv=37, mask=Mask("float32", "bk", hidden="columns"), softcap=2.0),
    Case("strict-packed", torch.float16, heads_q=4, heads_kv=2, alibi="batch-heads",
         sequences=((9, 20), (17, 7), (0, 3), (1, 33)), dropout=0.2, sinks="normal",
         causal="bottom-right", rest=3),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_access_is_legal(case: Case, device: torch.device) -> None:
    """No access leaves its tensor, races or reads what nobody wrote."""
    strict: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if device.type == "metalsim":  # on mps the run itself is all there is to check
        strict = orchard_ops.sim.strict()
    inputs = make_inputs(case)
    with strict, count_calls() as calls:
        actual = run_case(case, inputs, device)
    assert_close(case, inputs, actual)
    assert (calls.fwd, calls.bwd) == (1, 1)
