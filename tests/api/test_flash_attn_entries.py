"""The entries below flash_attn's functions, as ring attention uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import BF16, F16, Case
from harness import count_calls, sequence_ends
from needs import chosen_device, skip_without
from reference import Results, assert_close, make_inputs
from torch import Tensor

from orchard_ops import InvalidProblemError, UnsupportedError
from orchard_ops.flash_attn.flash_attn_interface import (
    _flash_attn_backward,
    _flash_attn_forward,
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
)

_BASE = Case("", batch=2, heads_q=4, heads_kv=2, len_q=21, len_kv=45,
             alignment="bottom-right")  # fmt: skip
_RAGGED = ((9, 30), (37, 12), (1, 1), (0, 4))
CASES = [
    replace(_BASE, name="entry-plain"),
    replace(_BASE, name="entry-half", dtype=F16),
    replace(_BASE, name="entry-causal-tall", causal="bottom-right", len_q=60),
    replace(_BASE, name="entry-options", window=(7, 3), softcap=3.0, alibi="heads"),
    replace(_BASE, name="entry-dropout", dropout=0.3, causal="bottom-right"),
    replace(_BASE, name="entry-varlen", batch=1, sequences=_RAGGED),
    replace(_BASE, name="entry-varlen-all", batch=1, sequences=_RAGGED, window=(9, 2),
            softcap=3.0, alibi="batch-heads", dropout=0.2, dtype=BF16),
]  # fmt: skip
DEVICES = ["cpu"] if chosen_device() == "cpu" else [chosen_device(), "cpu"]


def options(case: Case, slopes: Tensor | None, device: torch.device) -> dict[str, Any]:
    """Return what all four entries take, as keywords."""
    left, right = case.window or (-1, -1)
    return {
        "dropout_p": case.dropout,
        "softmax_scale": case.scale_value,
        "causal": case.causal != "none",
        "window_size_left": left,
        "window_size_right": right,
        "softcap": case.softcap,
        "alibi_slopes": None if slopes is None else slopes.to(device),
    }


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_matches_float64(case: Case, kind: str) -> None:
    """Forward and backward are right; gradients are written into what is given."""
    device = torch.device(kind)
    skip_without(case.dtype, device)
    inputs = make_inputs(case)
    swap = (lambda t: t) if case.sequences else (lambda t: t.transpose(1, 2))
    q, k, v, grad = (swap(t).to(device) for t in inputs.core)
    given = options(case, inputs.alibi_slopes, device)
    packed: Any = sequence_ends(case, device) if case.sequences else ()
    forward: Any = _flash_attn_varlen_forward if packed else _flash_attn_forward
    backward: Any = _flash_attn_varlen_backward if packed else _flash_attn_backward
    torch.manual_seed(case.manual_seed)
    with count_calls() as calls:
        out, lse, mask, state = forward(
            q, k, v, *packed, **given, return_softmax=case.dropout > 0
        )
        written: Any = [torch.full_like(t, torch.nan) for t in (q, k, v)]
        sums = backward(
            grad, q, k, v, out, lse, *written, *packed, **given, deterministic=True,
            rng_state=state,
        )  # fmt: skip
    assert device.type == "cpu" or (calls.fwd, calls.bwd) == (1, 1)
    assert bool(mask.numel()) == (case.dropout > 0)
    assert not out.requires_grad
    results = [swap(out).cpu(), lse.cpu(), *(swap(t).cpu() for t in written)]
    assert_close(case, inputs, Results(*results))
    want = (grad.cpu().double() * out.cpu().double()).sum(-1).transpose(-1, -2)
    assert torch.allclose(sums.cpu().double(), want, atol=1e-4)


def merged(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return out and lse of all keys from those of each block of them."""
    lse = torch.logsumexp(torch.stack([lse for _, lse in parts]), 0)
    shares = [(each - lse).exp().transpose(1, 2).unsqueeze(-1) for _, each in parts]
    total = torch.zeros(())
    for (out, _), share in zip(parts, shares):
        total = total.to(out.device) + out.float() * share
    return total.to(parts[0][0].dtype), lse


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, F16], ids=["f32", "f16"])
def test_a_ring_of_blocks_matches_float64(dtype: torch.dtype, kind: str) -> None:
    """Blocks of keys, with the out and lse of all keys, give the whole's gradients."""
    device = torch.device(kind)
    case = Case(f"ring-{dtype}", dtype, batch=2, heads_q=4, heads_kv=2, len_q=24,
                len_kv=48, softcap=5.0)  # fmt: skip
    inputs = make_inputs(case)
    q, k, v, grad = (t.transpose(1, 2).to(device) for t in inputs.core)
    given = options(case, None, device)
    blocks = [(k[:, :32], v[:, :32]), (k[:, 32:], v[:, 32:])]
    parts = [
        _flash_attn_forward(q, *block, **given, return_softmax=False)[:2]
        for block in blocks
    ]
    out, lse = merged(parts)
    dq, dk, dv = torch.zeros_like(q).float(), [], []
    for block in blocks:
        written: Any = [torch.empty_like(t) for t in (q, *block)]
        _flash_attn_backward(
            grad, q, *block, out, lse, *written, **given, deterministic=False
        )
        dq += written[0].float()
        dk.append(written[1])
        dv.append(written[2])
    results = (out, dq.to(dtype), torch.cat(dk, 1), torch.cat(dv, 1))
    out, *grads = (t.transpose(1, 2).cpu() for t in results)
    assert_close(case, inputs, Results(out, lse.cpu(), *grads))


def test_what_is_not_asked_is_not_written(device: torch.device) -> None:
    """A gradient may be None, and a row of lse that says -inf has none."""
    q = torch.randn(1, 3, 2, 8).to(device)
    given = options(_BASE, None, device)
    out, lse, *_ = _flash_attn_forward(q, q, q, **given, return_softmax=False)
    dv = torch.empty_like(q)
    _flash_attn_backward(
        q, q, q, q, torch.zeros_like(out), torch.full_like(lse, -torch.inf), None, None,
        dv, **given, deterministic=True,
    )  # fmt: skip
    assert not dv.cpu().any()


def test_bad_arguments(device: torch.device) -> None:
    """Dropout without its state, foreign lengths and shapes are refused by name."""
    q = torch.randn(1, 3, 2, 8).to(device)
    lse = torch.zeros(1, 2, 3).to(device)
    given = {**options(_BASE, None, device), "deterministic": True}
    grads: Any = [torch.empty_like(q) for _ in range(3)]
    with pytest.raises(InvalidProblemError, match="rng_state"):
        _flash_attn_backward(q, q, q, q, q, lse, *grads, **{**given, "dropout_p": 0.5})
    for state in (torch.zeros(2), torch.zeros(3, dtype=torch.int64)):
        random = {"dropout_p": 0.5, "rng_state": state}
        with pytest.raises(InvalidProblemError, match="rng_state of shape"):
            _flash_attn_backward(q, q, q, q, q, lse, *grads, **{**given, **random})
    with pytest.raises(InvalidProblemError, match="lse"):
        _flash_attn_backward(q, q, q, q, q, lse[:, :1], *grads, **given)
    with pytest.raises(InvalidProblemError, match=r"\[_flash_attn_backward\] expected"):
        _flash_attn_backward(q[0], q, q, q, q, lse, *grads, **given)
    with pytest.raises(InvalidProblemError, match=r"\[_flash_attn_backward\] expected"):
        _flash_attn_backward(q, q, q, q, q[0], lse, *grads, **given)
    ends = torch.tensor([0, 3], dtype=torch.int32).to(device)
    with pytest.raises(UnsupportedError, match="seqused_k"):
        _flash_attn_varlen_forward(
            q[0], q[0], q[0], ends, ends, 3, 3, 0.0, 1.0, False, seqused_k=ends[1:]
        )
