"""flash_attn.layers.rotary.apply_rotary_emb, against complex numbers in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rotation import turn
from torch import Tensor

from orchard_ops import InvalidProblemError
from orchard_ops.flash_attn.layers.rotary import apply_rotary_emb

ANGLES = torch.rand(40, 8, generator=torch.Generator().manual_seed(1)).double() * 6
STYLES = {"halves": False, "interleaved": True}


def table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angles."""
    return ANGLES.cos().float().to(device), ANGLES.sin().float().to(device)


def offset_of(given: int | list[int], device: torch.device) -> int | Tensor:
    """Return what the function takes."""
    return given if isinstance(given, int) else torch.tensor(given).to(device)


def turned(x: Tensor, firsts: list[int], style: str) -> Tensor:
    """Turn each of a batch from its own first position on; none beyond the table."""
    angles = torch.cat([ANGLES, torch.zeros(100, 8).double()])
    rows = [turn(each, angles[n : n + each.size(0)], style)
            for each, n in zip(x.double(), firsts)]  # fmt: skip
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("style", STYLES)
def test_matches_complex_numbers(
    style: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Result and gradient are those of multiplying by unit numbers."""
    torch.manual_seed(0)
    x, grad = (torch.randn(2, 9, 3, 24).to(dtype) for _ in range(2))
    for offsets in (4, [0, 36]):
        firsts = [offsets] * 2 if isinstance(offsets, int) else offsets
        given = (
            offsets if isinstance(offsets, int) else torch.tensor(offsets).to(device)
        )
        leaf = x.to(device).requires_grad_()
        out = apply_rotary_emb(leaf, *table(device), STYLES[style],
                               seqlen_offsets=given)  # fmt: skip
        (found,) = torch.autograd.grad(out, leaf, grad.to(device))
        exact = x.double().requires_grad_()
        want = turned(exact, firsts, style)
        (want_grad,) = torch.autograd.grad(want, exact, grad.double())
        assert out.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-3
        assert torch.allclose(out.detach().cpu().double(), want, atol=tolerance,
                              rtol=tolerance)  # fmt: skip
        assert torch.allclose(found.cpu().double(), want_grad, atol=tolerance,
                              rtol=tolerance)  # fmt: skip


def test_packed_sequences(device: torch.device) -> None:
    """Each packed sequence begins anew, at its own offset; empty ones do not count."""
    x = torch.randn(14, 2, 16)
    ends = torch.tensor([0, 0, 5, 5, 13], dtype=torch.int32).to(device)
    for offsets in (0, 3, [9, 1, 9, 20]):
        firsts = [offsets] * 4 if isinstance(offsets, int) else offsets
        given = (
            offsets if isinstance(offsets, int) else torch.tensor(offsets).to(device)
        )
        out = apply_rotary_emb(x.to(device), *table(device), seqlen_offsets=given,
                               cu_seqlens=ends, max_seqlen=8)  # fmt: skip
        want = [turned(x[None, :5], firsts[1:2], "halves")[0],
                turned(x[None, 5:13], firsts[3:], "halves")[0]]  # fmt: skip
        got = out.cpu().double()[:13]
        assert torch.allclose(got, torch.cat(want), atol=1e-5)


def test_in_place(device: torch.device) -> None:
    """The result is written into x, which may be a view, and is x."""
    base = torch.randn(2, 5, 3, 2, 16).to(device)
    before, x = base.cpu().clone(), base[:, :, 1]
    want = apply_rotary_emb(x, *table(device))
    out = apply_rotary_emb(x, *table(device), inplace=True)
    assert out is x
    assert torch.equal(x.cpu(), want.cpu())
    assert torch.equal(base[:, :, [0, 2]].cpu(), before[:, :, [0, 2]])
    grads = []
    for inplace in (False, True):
        leaf = before[:, :, 1].to(device).requires_grad_()
        turned_leaf = apply_rotary_emb(leaf * 1, *table(device), inplace=inplace)
        turned_leaf.square().sum().backward()
        grads.append(leaf.grad.cpu())
    assert torch.equal(*grads)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "table": ({"sin": torch.zeros(40, 7)}, "cos and sin"),
    "few rows": ({"seqlen_offsets": 39}, "from 0 to 38"),
    "offsets": ({"seqlen_offsets": torch.zeros(3, dtype=torch.int32)}, r"\[1\]"),
    "no starts": ({"cu_seqlens": torch.zeros(0, dtype=torch.int32), "max_seqlen": 2,
                   "x": torch.zeros(2, 2, 16)}, "cu_seqlens to be int32"),
    "starts of floats": ({"cu_seqlens": torch.tensor([0.0, 2.0]), "max_seqlen": 2,
                          "x": torch.zeros(2, 2, 16)}, "cu_seqlens to be int32"),
    "whole numbers": ({"x": torch.zeros(1, 2, 2, 16, dtype=torch.int32)},
                      "x to be a floating-point tensor"),
    "complex table": ({"cos": torch.zeros(40, 8) * 1j}, "cos to be a floating-point"),
    "no longest": ({"cu_seqlens": torch.tensor([0, 2]), "x": torch.zeros(2, 2, 16)},
                   "max_seqlen"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    """A bad argument gives a typed error that says what came."""
    changes, words = BAD[name]
    cos, sin = table(torch.device("cpu"))
    given: dict[str, Any] = {"x": torch.zeros(1, 2, 2, 16), "cos": cos, "sin": sin}
    given.update(changes)
    with pytest.raises(InvalidProblemError, match=words):
        apply_rotary_emb(**given)
