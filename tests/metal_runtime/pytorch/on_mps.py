"""Run by test_mps_key.py with the stand-in's mps device: what only it can show."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch

import orchard_ops
from orchard_ops._errors import translate

standin = torch.ops.standin
MODE = os.environ["STANDIN_STORAGE_MODE"]


@pytest.fixture(autouse=True)
def _nothing_is_misused(device: torch.device) -> Iterator[None]:
    """After each test: no over-release, dead object, lost object, stray call."""
    assert device.type == "mps"
    yield
    assert standin.misuses() == [0, 0, 0, 0]


def inputs(device: torch.device, length: int = 40) -> list[torch.Tensor]:
    """Return q, k and v that want gradients."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, 2, length, 16, generator=generator).to(device).requires_grad_()
        for _ in range(3)
    ]


def test_tensors_are_metal_buffers(device: torch.device) -> None:
    """`describe` reports what the MTLBuffer itself says, and the view's offset."""
    found = orchard_ops.storage.describe(inputs(device)[0][:, 1:])
    assert found.device_name == "Simulated Apple GPU"
    assert found.storage_mode == MODE
    assert found.byte_offset == 40 * 16 * 4


def dispatches() -> int:
    """Return how many dispatches were encoded; the encoder must still be open."""
    messages = standin.take_encoded()
    assert "endEncoding" not in messages
    return sum(message.startswith("dispatch") for message in messages)


def test_calls_go_into_the_open_encoder(device: torch.device) -> None:
    """A forward is one dispatch, a backward a few; neither ends the encoder."""
    q, k, v = inputs(device)
    orchard_ops.flash_attention(q, k, v)  # The lane layout is probed.
    standin.take_encoded()
    out = orchard_ops.flash_attention(q, k, v)
    assert dispatches() == 1
    out.backward(torch.ones_like(out))
    assert dispatches() >= 3


def test_a_gpu_error_is_reported_by_synchronize(device: torch.device) -> None:
    """A command buffer that ends in error becomes a DeviceError, once."""
    q, k, v = inputs(device)
    expected = orchard_ops.flash_attention(q, k, v).detach().cpu()
    orchard_ops.flash_attention(q, k, v)
    standin.fail_gpu(True)
    with pytest.raises(RuntimeError) as caught:
        torch.ops.orchard_ops.synchronize()
    standin.fail_gpu(False)
    error = translate(caught.value)
    assert isinstance(error, orchard_ops.DeviceError)
    assert "GPU Timeout" in str(error)
    assert torch.equal(orchard_ops.flash_attention(q, k, v).detach().cpu(), expected)


def test_a_gpu_error_is_reported_by_the_next_call(device: torch.device) -> None:
    """Without a synchronize the next call of ours says that results are void."""
    q, k, v = inputs(device)
    orchard_ops.flash_attention(q, k, v)
    standin.fail_gpu(True)
    torch.mps.synchronize()
    standin.fail_gpu(False)
    with pytest.raises(orchard_ops.DeviceError, match="failed on the GPU"):
        orchard_ops.flash_attention(q, k, v)


def test_a_stranger_is_no_buffer(device: torch.device) -> None:
    """A storage that holds no MTLBuffer is refused before it is asked anything."""
    q, k, v = inputs(device)
    stranger = torch.ops.standin.wrap_host_memory(q.detach())
    with pytest.raises(orchard_ops.DeviceError, match=r"tensor\.to\('mps'\)"):
        orchard_ops.flash_attention(stranger, k, v)


def test_buffers_and_command_buffers_are_given_back(device: torch.device) -> None:
    """Rounds of forward and backward leave no Metal object behind."""

    def round_trip() -> None:
        q, k, v = inputs(device)
        out = orchard_ops.flash_attention(q, k, v, is_causal=True)
        out.backward(torch.ones_like(out))
        torch.ops.orchard_ops.synchronize()

    kinds = ("MTLBuffer", "MTLCommandBuffer", "MTLComputeCommandEncoder", "NSString")
    round_trip()
    gc.collect()
    before = [standin.live(kind) for kind in kinds]
    for _ in range(3):
        round_trip()
    gc.collect()
    assert [standin.live(kind) for kind in kinds] == before
