"""Where dropout's random numbers come from, and what repeats them."""

from __future__ import annotations

import itertools

import numpy as np
import philox
import pytest
import torch
from harness import bits
from torch import Tensor

import orchard_ops

CPU = torch.device("cpu")


def make(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v that require gradients."""
    generator = torch.Generator().manual_seed(3)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, 2, 21, 64, generator=generator).to(device).requires_grad_()
        for _ in range(3)
    )


def drop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with dropout."""
    out = orchard_ops.flash_attention(q, k, v, dropout_p=0.5)
    assert isinstance(out, Tensor)
    return out


def test_manual_seed_repeats_a_call(device: torch.device) -> None:
    """torch.manual_seed repeats the bits; without it each call differs."""
    tensors = make(device)
    torch.manual_seed(11)
    first, second = bits(drop(*tensors)), bits(drop(*tensors))
    torch.manual_seed(11)
    assert torch.equal(bits(drop(*tensors)), first)
    assert not torch.equal(first, second)


def test_one_number_is_drawn_a_call(device: torch.device) -> None:
    """A call with dropout draws once from the CPU generator, one without never."""
    tensors = make(device)
    torch.manual_seed(1)
    orchard_ops.flash_attention(*tensors)
    drop(*tensors)
    after = torch.rand(())
    torch.manual_seed(1)
    torch.randint(2**40, (), dtype=torch.int64)
    assert torch.rand(()) == after


def test_the_device_drops_what_the_cpu_drops(device: torch.device) -> None:
    """The same seed keeps the same weights wherever the tensors are."""
    outs = []
    for place in (device, CPU):
        torch.manual_seed(2)
        outs.append(drop(*make(place)).detach().cpu())
    assert torch.allclose(outs[0], outs[1], atol=1e-5)


def test_weights_are_dropped_not_outputs(device: torch.device) -> None:
    """With v the identity the output is the weights: 0 if dropped, else scaled."""
    q = torch.zeros(1, 1, 32, 64).to(device)
    v = torch.eye(64).view(1, 1, 64, 64).to(device)
    k = torch.zeros(1, 1, 64, 64).to(device)
    torch.manual_seed(4)
    out, mask = orchard_ops.flash_attn_fwd(q, k, v, 1.0, 0.25)
    expected = mask.cpu() * (1 / 64 / 0.75)
    assert torch.allclose(out.cpu(), expected, atol=1e-7)
    assert 0.6 < mask.cpu().float().mean() < 0.9


SHAPE = (1, 2, 64, 64)


def seed_that_draws(value: int) -> tuple[int, Tensor]:
    """Return the first number for torch.manual_seed by which a weight draws a value.

    And what each weight draws, [batch, heads, len_q, len_kv].
    """
    for number in itertools.count():
        draws = philox.draws(philox.draw_seed(number), SHAPE)
        drawn = torch.from_numpy(draws.astype(np.int64))  # 2.1 takes no uint64.
        if bool((drawn == value).any()):
            return number, drawn
    raise AssertionError


@pytest.mark.parametrize("value", [1, 255, 32768, 65280, 65535])
def test_the_draw_that_equals_the_threshold_is_kept(
    value: int, device: torch.device
) -> None:
    """Just those weights go whose 16 bits are below the threshold, forward and back.

    The largest threshold is 65,535, so that a few are kept by any probability below 1.
    """
    number, drawn = seed_that_draws(value)
    dropout_p = 1.0 - 1e-9 if value == 65535 else value / 65536
    kept = drawn >= value
    q = torch.zeros(SHAPE).to(device)
    v = torch.eye(64).expand(SHAPE).contiguous().to(device).requires_grad_()
    torch.manual_seed(number)
    out = orchard_ops.flash_attention(q, q, v, dropout_p=dropout_p)
    (dv,) = torch.autograd.grad(out, v, v.detach())
    weights = kept / 64 / (1.0 - value / 65536)
    assert torch.equal(out.cpu() != 0.0, kept)
    assert torch.allclose(out.cpu(), weights, rtol=1e-5)
    assert torch.equal(dv.cpu() != 0.0, kept.transpose(-1, -2))
    assert torch.allclose(dv.cpu(), weights.transpose(-1, -2), rtol=1e-5)


def test_dropout_leaves_lse_alone(device: torch.device) -> None:
    """Lse is of the weights before dropout."""
    q, k, v = make(device)
    plain = orchard_ops.flash_attention(q, k, v, return_lse=True)[1]
    dropped = orchard_ops.flash_attention(q, k, v, dropout_p=0.5, return_lse=True)[1]
    assert torch.equal(plain.cpu(), dropped.cpu())


def test_the_mean_over_seeds_is_attention(device: torch.device) -> None:
    """Dropout keeps the expectation: the mean of many calls nears the plain output."""
    q, k, v = (tensor.detach()[:1, :1, :8, :16] for tensor in make(device))
    plain = orchard_ops.flash_attention(q, k, v).cpu()
    torch.manual_seed(6)
    total = sum(
        orchard_ops.flash_attention(q, k, v, dropout_p=0.3).cpu() for _ in range(400)
    )
    assert float((total / 400 - plain).abs().max()) < 0.15
