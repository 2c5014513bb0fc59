"""Inside an autocast region q, k and v become its dtype, as for PyTorch's attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import orchard_ops
from orchard_ops import _autocast

Q = torch.randn(1, 2, 12, 64)


def attend(q: Tensor, **options: object) -> Tensor:
    """Attend to itself."""
    out = orchard_ops.flash_attention(q, q, q, **options)
    assert isinstance(out, Tensor)
    return out


def test_float32_is_cast_on_the_cpu() -> None:
    """The output has the region's dtype."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(Q)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attend(Q.bfloat16()))


def test_gradients_stay_float32_on_the_cpu() -> None:
    """A float32 tensor gets a float32 gradient through the cast."""
    q = Q.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q)
    out.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_is_cast_on_the_device(
    dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is for tensors on the device, q, k and v alike, and lse stays float32."""
    q = Q.to(device).requires_grad_()
    with monkeypatch.context() as patch:  # metalsim itself offers no region
        patch.setattr(_autocast, "autocast_dtype", lambda _: dtype)
        out, lse = orchard_ops.flash_attention(q, q, q.to(dtype), return_lse=True)
        dropped = orchard_ops.flash_attention_varlen(
            *[q[0]] * 3, *[torch.tensor([0, 2], dtype=torch.int32).to(device)] * 2, 2, 2
        )
    assert (out.dtype, lse.dtype, dropped.dtype) == (dtype, torch.float32, dtype)
    out.backward(torch.ones(out.shape, dtype=dtype).to(device))
    assert q.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks(dtype: torch.dtype) -> None:
    """A float32 mask is added as it is; one of another half is cast with q."""
    mask = torch.randn(12, 12).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attend(Q, attn_mask=mask)
    as_it_counts = mask if dtype == torch.float32 else mask.bfloat16()
    assert torch.equal(actual, attend(Q.bfloat16(), attn_mask=as_it_counts))


def test_float64_is_left_alone() -> None:
    """Autocast does not lower float64."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(Q.double()).dtype == torch.float64


def test_outside_and_switched_off() -> None:
    """Without a region, or with one that is off, nothing is cast."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        assert attend(Q).dtype == torch.float32
    assert attend(Q).dtype == torch.float32
