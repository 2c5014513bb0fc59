"""float32 sums over tens of thousands of rows or keys, and what their parts may break.

A sum of n numbers in a row is off by sqrt(n) roundings: at 65,536 by 4e-6 of itself,
ten times what plain operators, which add blocks first, are off by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, Mask
from harness import options, run_case
from reference import assert_close, make_inputs
from torch import Tensor

import orchard_ops

LONG = 65536
# Relative, in norm; plain operators' are 4e-7 to 6e-7, and 3e-8 of lse.
ALLOWED = {"out": 1e-6, "lse": 1e-7, "dq": 1e-6, "dk": 1e-6, "dv": 1e-6, "dbias": 1e-6}


def attend(leaves: list[Tensor], grad_out: Tensor) -> dict[str, Tensor]:
    """Return what the definition gives, from operators in the tensors' dtype."""
    q, k, v, bias = (t.detach().requires_grad_() for t in leaves)
    scores = q @ k.transpose(-1, -2) * q.size(-1) ** -0.5 + bias
    out = scores.softmax(-1) @ v
    wanted = torch.autograd.grad(out, [q, k, v, bias], grad_out)
    found = (out, scores.logsumexp(-1), *wanted)
    return dict(zip(ALLOWED, (t.detach() for t in found)))


@pytest.mark.parametrize("scratch", [0, 1 << 30], ids=["recomputing", "spilling"])
@pytest.mark.parametrize(("len_q", "len_kv"), [(LONG, 8), (8, LONG)])
def test_many_rows_and_many_keys(
    len_q: int, len_kv: int, scratch: int, device: torch.device
) -> None:
    """Every result is within a few roundings of float64."""
    generator = torch.Generator().manual_seed(1)
    leaves = [
        torch.randn(1, 1, length, 16, generator=generator)
        for length in (len_q, len_kv, len_kv)
    ]
    leaves.append(torch.randn(1, 1, 1, len_kv, generator=generator))  # a bias
    grad_out = torch.randn(1, 1, len_q, 16, generator=generator)
    want = attend([t.double() for t in leaves], grad_out.double())
    given: Any = [t.to(device).requires_grad_() for t in leaves]
    with orchard_ops.backward_scratch(scratch):
        out, lse = orchard_ops.flash_attention(*given, return_lse=True)
        found = torch.autograd.grad(out, given, grad_out.to(device))
    for name, tensor in zip(want, (out, lse, *found)):
        error = tensor.detach().cpu().double() - want[name]
        assert error.norm() <= ALLOWED[name] * want[name].norm(), name


def test_a_long_cache(device: torch.device) -> None:
    """A decoding step cuts a long cache into parts that are short enough."""
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(16, 1, 4, 16, generator=generator)
    cache = torch.randn(1, LONG, 1, 16, generator=generator)
    rows = torch.zeros(16, dtype=torch.int32)
    out = orchard_ops.flash_attention_with_kvcache(
        q.to(device), *(cache.to(device),) * 2,
        cache_seqlens=LONG, cache_batch_idx=rows.to(device),
    )  # fmt: skip
    exact = cache.double().transpose(1, 2)
    want = (q.double().transpose(1, 2) @ exact.transpose(-1, -2) / 4).softmax(-1)
    want = (want @ exact).transpose(1, 2)
    assert (out.cpu().double() - want).norm() <= ALLOWED["out"] * want.norm()


_PARTS = Case("parts", heads_q=2, len_q=300, len_kv=1100, head_dim=16)
PARTS = [
    _PARTS,
    replace(_PARTS, name="parts-split", head_dim=256, heads_q=1, len_q=40),
    replace(_PARTS, name="parts-all", mask=Mask("float", "qk", hidden="tiles"),
            window=(900, 200), softcap=3.0, alibi="heads", sinks="normal",
            dropout=0.2, alignment="bottom-right", grad_lse=True),
    replace(_PARTS, name="parts-lowest", mask=Mask("float", "qk", hidden="lowest")),
    replace(_PARTS, name="parts-varlen", causal="bottom-right", rest=5,
            sequences=((290, 1050), (20, 3), (7, 520))),
]  # fmt: skip


@pytest.mark.parametrize("scratch", [0, 1 << 30], ids=["recomputing", "spilling"])
@pytest.mark.parametrize("case", PARTS, ids=lambda case: case.name)
def test_parts_are_put_together(case: Case, scratch: int, device: torch.device) -> None:
    """Results that are made in parts are right, with every feature."""
    inputs = make_inputs(case)
    with orchard_ops.backward_scratch(scratch):
        assert_close(case, inputs, run_case(case, inputs, device))


def test_rows_that_see_no_key_of_the_first_parts(device: torch.device) -> None:
    """A maximum that nothing has set yet does not disturb the parts that follow."""
    case = replace(_PARTS, name="parts-late", len_q=20, len_kv=1300)
    inputs = make_inputs(case)
    mask = torch.ones(20, 1300, dtype=torch.bool)
    mask[::2, :1200] = False  # the other rows keep the blocks from being skipped
    mask[1, 5:] = False
    mask[3, :] = False
    q, k, v = (t.to(device) for t in inputs.core[:3])
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    got = orchard_ops.flash_attention(q, k, v, mask.to(device), **options(case))
    scores = inputs.q.double() @ inputs.k.double().transpose(-1, -2) / 4
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
    want = weights @ inputs.v.double()
    assert torch.allclose(got.cpu().double(), want, atol=2e-6)
