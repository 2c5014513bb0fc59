"""The float64 reference, by finite differences, and numbers at the ends of a range."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from cases import BF16, F16, F32, Case, Mask
from harness import run_case
from needs import skip_without
from reference import Inputs, make_inputs, solve
from torch import Tensor

import orchard_ops

CPU = torch.device("cpu")
STEP = 1e-6
SMALL = Case(
    "differences", torch.float64, heads_q=2, heads_kv=1, len_q=3, len_kv=4, head_dim=3,
    head_dim_v=2, grad_lse=True,
)  # fmt: skip
DIFFERENCES = {
    "plain": SMALL,
    "no-lse": replace(SMALL, grad_lse=False),
    "causal": replace(SMALL, causal="bottom-right"),
    "window": replace(SMALL, window=(1, 0)),
    "softcap": replace(SMALL, softcap=1.5),
    "alibi": replace(SMALL, alibi="heads"),
    "sinks": replace(SMALL, sinks="normal"),
    "bias": replace(SMALL, mask=Mask("float", "hqk", hidden="none")),
    "bias-of-keys": replace(SMALL, mask=Mask("float", "k", hidden="none")),
    # A row without keys has lse -inf, and so no difference.
    "bool-mask": replace(
        SMALL, mask=Mask("bool", "qk", hidden="rows"), grad_lse=False
    ),
    "dropout": replace(SMALL, dropout=0.3),
    "packed": replace(SMALL, sequences=((2, 3), (1, 1)), causal="top-left"),
    "all-at-once": replace(
        SMALL, causal="top-left", softcap=2.0, alibi="heads", sinks="normal",
        dropout=0.2, mask=Mask("float", "qk", hidden="none"),
    ),
}  # fmt: skip
GRADIENTS = {"q": "dq", "k": "dk", "v": "dv", "attn_mask": "dmask", "sinks": "dsinks"}


def loss(case: Case, inputs: Inputs) -> float:
    """Return the number whose gradient the reference's backward is."""
    found = solve(case, inputs)
    total = (found.out * inputs.grad_out).sum()
    if inputs.grad_lse is not None:
        total = total + (found.lse * inputs.grad_lse).sum()
    return float(total)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_gradients_of_the_reference(name: str) -> None:
    """Each is the difference of the loss, for every element of every input."""
    case = replace(DIFFERENCES[name], name=f"differences-{name}")
    inputs = make_inputs(case)
    exact = solve(case, inputs)
    for label, gradient in GRADIENTS.items():
        tensor = getattr(inputs, label)
        if tensor is None or not tensor.is_floating_point():
            continue
        tensor = tensor.double()
        found = torch.empty_like(tensor)
        for at in range(tensor.numel()):
            losses = []
            for step in (STEP, -STEP):
                moved = tensor.clone()
                moved.view(-1)[at] += step
                losses.append(loss(case, replace(inputs, **{label: moved})))
            found.view(-1)[at] = (losses[0] - losses[1]) / (2 * STEP)
        want = getattr(exact, gradient)
        assert want.abs().max() > 1e-3, label  # there is something to compare
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)


def test_a_wrong_reference_is_seen() -> None:
    """The differences tell a gradient that is off by a thousandth."""
    inputs = make_inputs(SMALL)
    exact = solve(SMALL, inputs)
    wrong = replace(exact, dq=exact.dq * 1.001)
    assert not torch.allclose(wrong.dq, exact.dq, rtol=1e-6, atol=1e-8)
    assert {f.name for f in fields(Inputs)} >= set(GRADIENTS)


def place_of(where: str, device: torch.device) -> torch.device:
    """Return the device of a test that runs on both."""
    return device if where == "device" else CPU


def attend(place: torch.device, *tensors: Tensor, **options: Any) -> list[Tensor]:
    """Return out, and the gradients of q, k and v for a gradient of ones."""
    leaves = [tensor.to(place).requires_grad_() for tensor in tensors]
    out = orchard_ops.flash_attention(*leaves, **options)
    out.backward(torch.ones_like(out))
    return [out.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]


WHERE = pytest.mark.parametrize("where", ["device", "cpu"])


# The device's backward computes each score again: its rounding must stay small.
SIZES = [("cpu", 1e4), ("cpu", 1e18), ("device", 1e4)]


@pytest.mark.parametrize(("where", "size"), SIZES)
def test_scores_at_the_end_of_the_range(
    size: float, where: str, device: torch.device
) -> None:
    """One key's score is far above: its value comes out, and nothing is NaN."""
    place = place_of(where, device)
    q, k = torch.zeros(1, 1, 9, 64), torch.zeros(1, 1, 17, 64)
    v = torch.randn(1, 1, 17, 64, generator=torch.Generator().manual_seed(1))
    q[..., 0], k[..., 5, 0] = size, size
    out, dq, dk, dv = attend(place, q, k, v, scale=1.0)
    assert torch.equal(out, v[..., 5:6, :].expand_as(out))
    assert torch.equal(dv[0, 0, :, 0], torch.where(torch.arange(17) == 5, 9.0, 0.0))
    # A softmax of one key does not move: what is left is the rounding of sums of 64.
    for gradient in (dq, dk):
        assert gradient.abs().max() <= 2e-5 * size


@WHERE
def test_equal_scores_at_the_end_of_the_range(where: str, device: torch.device) -> None:
    """Weights are equal however large the scores are; differences decide alone.

    On the device that holds for the output only, as the backward computes each score
    again, from which it takes a rounded lse.
    """
    place = place_of(where, device)
    q = torch.full((1, 1, 9, 64), 1e15)
    k = torch.full((1, 1, 16, 64), 1e15)
    v = torch.randn(1, 1, 16, 64, generator=torch.Generator().manual_seed(1))
    out, *gradients = attend(place, q, k, v, scale=1.0)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    assert where == "device" or torch.isfinite(gradients[2]).all()


@WHERE
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_denormals(dtype: torch.dtype, where: str, device: torch.device) -> None:
    """Inputs below the normal range are 0 or what they are, nothing else."""
    place = place_of(where, device)
    skip_without(dtype, place)
    tiny = torch.finfo(dtype).tiny / 4
    q = torch.full((1, 1, 9, 64), tiny, dtype=dtype)
    v = torch.full((1, 1, 16, 64), tiny, dtype=dtype)
    k = torch.full((1, 1, 16, 64), tiny, dtype=dtype)
    out, *gradients = attend(place, q, k, v)
    assert ((out.double() >= 0) & (out.double() <= 1.01 * tiny)).all()
    for gradient in gradients:
        assert torch.isfinite(gradient).all()
    # Each value's gradient: nine rows give it a sixteenth each.
    torch.testing.assert_close(gradients[2].double(), torch.full((1, 1, 16, 64), 0.5625,
                               dtype=torch.float64), rtol=1e-2, atol=0)  # fmt: skip


@WHERE
def test_tiny_probabilities_keep_their_gradients(
    where: str, device: torch.device
) -> None:
    """A weight of e**-80 has the gradient that it should, not 0 and not noise."""
    place = place_of(where, device)
    q, k = torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 2, 64)
    q[..., 0], k[..., 0, 0] = 8.0, 10.0  # scores of 80 and 0
    v = torch.zeros(1, 1, 2, 64)
    v[..., 1, :] = 1.0
    out, _, _, dv = attend(place, q, k, v, scale=1.0)
    weight = torch.exp(torch.tensor(-80.0, dtype=torch.float64))
    for found in (out[0, 0, 0], dv[0, 0, 1]):
        assert torch.allclose(found.double(), weight.expand(64), rtol=1e-4, atol=0)


def test_a_long_row_is_as_exact(device: torch.device) -> None:
    """Over 8,192 keys the errors of sums do not add up."""
    case = Case("long-row", F32, len_q=3, len_kv=8192, head_dim=64)
    inputs = make_inputs(case)
    exact, found = solve(case, inputs), run_case(case, inputs, device)
    for label, want in exact.items():
        error = (getattr(found, label).double() - want).abs().max() / want.abs().max()
        assert error < 2e-5, label
