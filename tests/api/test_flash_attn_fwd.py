"""The entry that users of the first orchard_ops know."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case
from harness import count_calls
from reference import Results, assert_close, make_inputs

import orchard_ops
from orchard_ops import enable_flash


@pytest.mark.parametrize("causal", [False, True])
def test_output_and_gradients(causal: bool, device: torch.device) -> None:
    """flash_attn_fwd is attention with the given scale, differentiable in q, k, v."""
    name = "top-left" if causal else "none"
    case = Case(f"fwd-{name}", len_q=14, len_kv=21, scale=0.3, causal=name)
    inputs = make_inputs(case)
    q, k, v = (t.to(device).requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    with count_calls() as calls:
        out, _ = orchard_ops.flash_attn_fwd(q, k, v, 0.3, causal=causal)
        out.backward(inputs.grad_out.to(device))
    _, lse = orchard_ops.flash_attention(
        q, k, v, scale=0.3, is_causal=causal, return_lse=True
    )
    results = (out.detach(), lse, q.grad, k.grad, v.grad)
    assert_close(case, inputs, Results(*(t.cpu() for t in results)))
    assert (calls.fwd, calls.bwd) == (1, 1)


@pytest.mark.parametrize("shape", [(2, 3, 5, 16), (2, 5, 16)], ids=["4d", "3d"])
def test_mask_is_one_true_seen_everywhere(
    shape: tuple[int, ...], device: torch.device
) -> None:
    """Without dropout the keep-mask has the scores' shape and takes one byte."""
    q = torch.randn(shape).to(device)
    k = torch.randn(*shape[:-2], 7, 16).to(device)
    _, mask = orchard_ops.flash_attn_fwd(q, k, k, 0.25)
    assert mask.shape == (*shape[:-1], 7)
    assert (mask.dtype, mask.device.type) == (torch.bool, device.type)
    assert set(mask.stride()) == {0}
    assert bool(mask.cpu().all())


@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, 1.2, float("nan")])
def test_dropout_outside_the_unit_interval(dropout_p: float) -> None:
    """A dropout probability outside [0, 1) is an error that names it."""
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(orchard_ops.InvalidProblemError, match=str(dropout_p)):
        orchard_ops.flash_attn_fwd(q, q, q, 1.0, dropout_p)


@pytest.mark.parametrize("ndim", [5, 4, 3])
def test_mask_is_what_dropout_kept(ndim: int, device: torch.device) -> None:
    """With dropout the mask is the one that gives the output and the gradients."""
    case = Case(f"fwd-dropout-{ndim}", ndim=ndim, batch=2, len_q=19, len_kv=45,
                scale=0.2, causal="top-left", dropout=0.4)  # fmt: skip
    inputs = make_inputs(case)
    q, k, v = (t.to(device).requires_grad_() for t in inputs.core[:3])
    out, mask = orchard_ops.flash_attn_fwd(q, k, v, 0.2, 0.4, causal=True)
    assert mask.shape == (*q.shape[:-1], 45)
    assert (mask.dtype, mask.device.type) == (torch.bool, device.type)
    kept = mask.cpu().reshape(2, 1, 19, 45)
    out.backward(inputs.grad_out.to(device))
    _, lse = orchard_ops.flash_attention(
        q, k, v, scale=0.2, is_causal=True, return_lse=True
    )
    results = (out.detach(), lse, q.grad, k.grad, v.grad)
    assert_close(
        case, replace(inputs, keep=(kept,)), Results(*(t.cpu() for t in results))
    )


def test_the_old_module_still_has_its_names() -> None:
    """enable_flash.main() returns, and flash_attn is the same function."""
    enable_flash.main(verbose=True)
    assert enable_flash.flash_attn is orchard_ops.flash_attn_fwd
