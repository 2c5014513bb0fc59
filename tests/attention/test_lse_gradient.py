"""Gradients through lse, as z-loss and the merging of partial attention need them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from needs import TORCH
from torch import Tensor

import orchard_ops
from orchard_ops import flash_attn

# d/dq of out * sigmoid(lse) with one key, q = k = 1, v = 2 and scale 1: out is 2 and
# lse is q, so that it is 2 * sigmoid'(1).
RIGHT = 0.39322387


def one(device: torch.device, value: float, *, dims: int = 4) -> Tensor:
    """Return a tensor of a single number."""
    return torch.full((1,) * dims, value).to(device)


def product(out: Tensor, lse: Tensor) -> Tensor:
    """Return out * sigmoid(lse), summed."""
    return (out.flatten() * lse.flatten().sigmoid()).sum()


def where(name: str, device: torch.device) -> torch.device:
    """Return the CPU or the device that is tested."""
    return torch.device("cpu") if name == "cpu" else device


@pytest.mark.parametrize("place", ["cpu", "device"])
@pytest.mark.parametrize("scratch", [0, 1 << 20])
def test_one_key(place: str, scratch: int, device: torch.device) -> None:
    """The gradient of a product of out and a function of lse is that of both."""
    device = where(place, device)
    q = one(device, 1.0).requires_grad_()
    k = one(device, 1.0).requires_grad_()
    with orchard_ops.backward_scratch(scratch):
        pair = orchard_ops.flash_attention(
            q, k, one(device, 2.0), scale=1.0, return_lse=True
        )
        product(*pair).backward()
    assert float(q.grad) == pytest.approx(RIGHT, rel=1e-6)
    assert float(k.grad) == pytest.approx(RIGHT, rel=1e-6)


@pytest.mark.parametrize("place", ["cpu", "device"])
def test_one_key_packed(place: str, device: torch.device) -> None:
    """The same of packed sequences, and through Dao's functions."""
    device = where(place, device)
    v = one(device, 2.0, dims=3)
    ends = torch.tensor([0, 1], dtype=torch.int32).to(device)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (orchard_ops.flash_attention_varlen, dict(scale=1.0, return_lse=True)),
        (
            flash_attn.flash_attn_varlen_func,
            dict(softmax_scale=1.0, return_attn_probs=True),
        ),
    ]
    for function, options in calls:
        q = one(device, 1.0, dims=3).requires_grad_()
        pair = function(q, one(device, 1.0, dims=3), v, ends, ends, 1, 1, **options)
        product(*pair[:2]).backward()
        assert float(q.grad) == pytest.approx(RIGHT, rel=1e-6)


def test_one_key_compiled(device: torch.device) -> None:
    """The same inside torch.compile."""
    if TORCH < (2, 4):
        pytest.skip("torch.compile is supported from PyTorch 2.4 on")

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return product(
            *orchard_ops.flash_attention(q, k, v, scale=1.0, return_lse=True)
        )

    q = one(device, 1.0).requires_grad_()
    loss(q, one(device, 1.0), one(device, 2.0)).backward()
    assert float(q.grad) == pytest.approx(RIGHT, rel=1e-6)


@pytest.mark.parametrize("place", ["cpu", "device"])
@pytest.mark.parametrize("scratch", [0, 1 << 20])
def test_only_lse_is_used(place: str, scratch: int, device: torch.device) -> None:
    """Where nothing is made of out, q and k get lse's gradient, and v zeros."""
    device = where(place, device)
    torch.manual_seed(0)
    leaves = [torch.randn(1, 2, 9, 16) for _ in range(3)]
    q, k, v = (t.to(device).requires_grad_() for t in leaves)
    with orchard_ops.backward_scratch(scratch):
        _, lse = orchard_ops.flash_attention(q, k, v, return_lse=True)
        grads = torch.autograd.grad(
            lse.square().sum(), [q, k, v], allow_unused=True, materialize_grads=True
        )
    exact = [t.double().requires_grad_() for t in leaves]
    want_lse = torch.logsumexp(exact[0] @ exact[1].mT / 4, -1)
    want = torch.autograd.grad(want_lse.square().sum(), exact[:2])
    for grad, right in zip(grads, want):
        assert torch.allclose(grad.cpu().double(), right, rtol=1e-4, atol=1e-5)
    assert not grads[2].any()


@pytest.mark.parametrize("place", ["cpu", "device"])
def test_a_row_without_keys_passes_no_gradient(
    place: str, device: torch.device
) -> None:
    """Its lse is -inf, of which much has a gradient of NaN: none comes through."""
    device = where(place, device)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 8).to(device).requires_grad_() for n in (12, 5, 5))
    out, lse = orchard_ops.flash_attention(
        q, k, v, is_causal=True, causal_alignment="bottom-right", return_lse=True
    )
    (out.sum() + (lse * lse.exp()).sum()).backward()  # -inf * 0
    for leaf in (q, k, v):
        assert torch.isfinite(leaf.grad).all()
    assert not q.grad[:, :, :7].any()
    assert q.grad[:, :, 7:].any()


def test_parts_of_the_keys_merge(device: torch.device) -> None:
    """Attention to two halves of the keys, merged by lse, is that to all of them.

    As ring attention does; out, and the gradients, of which part flows through lse.
    """
    torch.manual_seed(0)
    leaves = [torch.randn(1, 2, 24, 16).to(device).requires_grad_() for _ in range(3)]
    q, k, v = leaves
    grad = torch.randn(1, 2, 24, 16).to(device)
    parts = [
        orchard_ops.flash_attention(q, k[:, :, half], v[:, :, half], return_lse=True)
        for half in (slice(0, 10), slice(10, 24))
    ]
    shares = torch.softmax(torch.stack([lse for _, lse in parts], -1), -1)
    merged: Any = sum(out * shares[..., i : i + 1] for i, (out, _) in enumerate(parts))
    whole = orchard_ops.flash_attention(q, k, v)
    assert torch.allclose(merged.cpu(), whole.cpu(), atol=1e-5)
    for got, want in zip(
        torch.autograd.grad(merged, leaves, grad),
        torch.autograd.grad(whole, leaves, grad),
    ):
        assert torch.allclose(got.cpu(), want.cpu(), atol=1e-5)


def test_a_gradient_of_lse_of_the_wrong_shape(device: torch.device) -> None:
    """The backward operator refuses it."""
    q = torch.randn(1, 1, 6, 16).to(device)
    out, lse, stats = torch.ops.orchard_ops.forward(q, q, q, return_lse=True)
    wanted = [True, True, True, False, False]
    with pytest.raises(RuntimeError, match="expected grad_lse to be torch"):
        torch.ops.orchard_ops.backward(
            out, lse[:, :, :5], out, lse, stats, wanted, q, q, q
        )
