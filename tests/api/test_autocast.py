"""Inside an autocast region q, k and v become its dtype, as for PyTorch's attention."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from needs import TORCH, needs_metalsim, skip_without
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import orchard_ops
from orchard_ops import _autocast, sim

Q = torch.randn(1, 2, 12, 64)


def attend(q: Tensor, **options: Any) -> Tensor:
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


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def region(
    request: pytest.FixtureRequest,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[torch.dtype]:
    """An open autocast region; where PyTorch has none for mps, as if it had."""
    skip_without(request.param, device)
    if device.type == "metalsim" or "mps" in _autocast._REGIONS:
        with torch.autocast(device.type, dtype=request.param):
            yield request.param
        return
    with monkeypatch.context() as patch:
        patch.setattr(_autocast, "autocast_dtype", lambda _: request.param)
        yield request.param


def test_float32_is_cast_on_the_device(
    region: torch.dtype, device: torch.device
) -> None:
    """So it is for tensors on the device, q, k and v alike, and lse stays float32."""
    q = Q.to(device).requires_grad_()
    out, lse = orchard_ops.flash_attention(q, q, q.to(region), return_lse=True)
    dropped = orchard_ops.flash_attention_varlen(
        *[q[0]] * 3, *[torch.tensor([0, 2], dtype=torch.int32).to(device)] * 2, 2, 2
    )
    assert (out.dtype, lse.dtype, dropped.dtype) == (region, torch.float32, region)
    out.backward(torch.ones(out.shape, dtype=region).to(device))
    assert q.grad.dtype == torch.float32


@needs_metalsim("device")
class TestMetalsim:
    """``torch.autocast("metalsim")`` is a region as any device has one."""

    @pytest.fixture(autouse=True)
    def _enabled(self) -> None:
        sim.enable()

    # The CPU multiplies no matrices of float16 before PyTorch 2.2, nor does metalsim.
    @pytest.mark.parametrize(
        "dtype",
        [torch.bfloat16] + [torch.float16] * (TORCH > (2, 1)),
    )
    def test_operators_follow_pytorchs_lists(self, dtype: torch.dtype) -> None:
        """Products take the region's type, sums and logarithms float32."""
        x = torch.rand(4, 4).to("metalsim")
        half = x.to(dtype)
        with torch.autocast("metalsim", dtype=dtype):
            assert (x @ x).dtype == dtype
            assert F.linear(x, x).dtype == dtype
            assert F.scaled_dot_product_attention(x, x, x).dtype == dtype
            for result in (half.log(), half.sum(), half.softmax(-1), half.norm()):
                assert result.dtype == torch.float32
            assert F.mse_loss(half, half).dtype == torch.float32
            assert half.sum(dtype=dtype).dtype == dtype
            assert torch.cat([half, x]).dtype == torch.float32
            assert (half + half).dtype == dtype  # on no list
            assert (x.double() @ x.double()).dtype == torch.float64
            assert torch.equal((x @ x).cpu(), x.cpu().to(dtype) @ x.cpu().to(dtype))
        assert (x @ x).dtype == torch.float32

    def test_default_and_nesting(self) -> None:
        """A region inside a region may switch it off; the outer one comes back."""
        x = torch.rand(4, 4).to("metalsim")
        with torch.autocast("metalsim", dtype=torch.bfloat16):
            with torch.autocast("metalsim", enabled=False):
                assert (x @ x).dtype == torch.float32
            assert (x @ x).dtype == torch.bfloat16
            assert torch.metalsim.is_autocast_enabled()  # type: ignore[attr-defined]
            assert torch.metalsim.get_autocast_dtype() == torch.bfloat16  # type: ignore[attr-defined]
        assert not torch.metalsim.is_autocast_enabled()  # type: ignore[attr-defined]

    def test_a_model_trains_as_on_the_cpu(self) -> None:
        """Gradients are float32 and those of the CPU's region; checkpoints agree."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))
        x, target = torch.randn(5, 8), torch.tensor([0, 2, 1, 1, 0])

        def gradients(device: str, is_checkpointed: bool) -> list[Tensor]:
            copied = copy.deepcopy(model).to(device)
            with torch.autocast(device, dtype=torch.bfloat16):
                given = x.to(device)
                out = (
                    checkpoint(copied, given, use_reentrant=False)
                    if is_checkpointed
                    else copied(given)
                )
                loss = F.cross_entropy(out, target.to(device))
            return [
                grad.cpu() for grad in torch.autograd.grad(loss, [*copied.parameters()])
            ]

        plain, again = gradients("metalsim", False), gradients("metalsim", True)
        for actual, repeated, right in zip(plain, again, gradients("cpu", False)):
            assert actual.dtype == torch.float32
            assert torch.equal(actual, repeated)
            torch.testing.assert_close(actual, right, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks(dtype: torch.dtype) -> None:
    """A float mask is added as it is, also one of another half than q becomes."""
    mask = torch.randn(12, 12).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attend(Q, attn_mask=mask)
    as_it_counts = mask if dtype == torch.bfloat16 else mask.float()
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
