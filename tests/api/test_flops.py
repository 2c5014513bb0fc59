"""PyTorch's FlopCounterMode counts the operators as it counts its own attention."""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter

import orchard_ops

pytestmark = pytest.mark.skipif(
    not hasattr(flop_counter, "flop_registry"),
    reason="PyTorch's counter takes formulas of others from 2.2 on",
)


def counted(
    call: Callable[..., Any], *arguments: object, **options: object
) -> tuple[int, Any]:
    """Return how many operations a call takes, and what it returns."""
    mode = flop_counter.FlopCounterMode(display=False)
    with mode:
        result = call(*arguments, **options)
    return mode.get_total_flops(), result


def draw(device: torch.device, *shape: int) -> Tensor:
    """Return a leaf."""
    return torch.randn(shape).to(device).requires_grad_()


@pytest.mark.parametrize("size_v", [64, 40])
def test_dense(size_v: int, device: torch.device) -> None:
    """Two products a score in the forward, five in the backward, masks or not."""
    q, k, v = (draw(device, 2, heads, length, size) for heads, length, size in
               ((4, 9, 64), (2, 17, 64), (2, 17, size_v)))  # fmt: skip
    scores = 2 * 4 * 9 * 17
    for causal in (False, True):
        flops, out = counted(orchard_ops.flash_attention, q, k, v, is_causal=causal)
        assert flops == 2 * scores * (64 + size_v)
        flops, _ = counted(out.sum().backward)
        assert flops == 2 * scores * (3 * 64 + 2 * size_v)
    with torch.no_grad():
        of_3d = (q[0], k[0, :1].expand(4, 17, 64), v[0, :1].expand(4, 17, size_v))
        flops, _ = counted(orchard_ops.flash_attention, *of_3d)
    assert flops == scores * (64 + size_v)


def test_agrees_with_pytorch(device: torch.device) -> None:
    """The count is that of PyTorch's flash attention, forward and backward."""
    shape = (2, 4, 16, 64)
    theirs = flop_counter.sdpa_flop_count(shape, shape, shape)
    back = flop_counter.sdpa_backward_flop_count(shape, shape, shape, shape)
    q = draw(device, *shape)
    flops, out = counted(orchard_ops.flash_attention, q, q, q)
    assert flops == theirs
    assert counted(out.sum().backward)[0] == back


def test_packed(device: torch.device) -> None:
    """Of packed sequences the scores within each count; of fake ones the longest."""
    q, k = draw(device, 24, 4, 32), draw(device, 31, 2, 32)
    ends_q, ends_k = (torch.tensor(ends, dtype=torch.int32).to(device)
                      for ends in ([0, 9, 20], [0, 30, 31]))  # fmt: skip
    call = orchard_ops.flash_attention_varlen
    flops, out = counted(call, q, k, k, ends_q, ends_k, 11, 30)
    scores = 4 * (9 * 30 + 11 * 1)
    assert flops == 2 * scores * 64
    assert counted(out.sum().backward)[0] == 2 * scores * 5 * 32
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fakes = [mode.from_tensor(t) for t in (q, k, k, ends_q, ends_k)]
        flops, _ = counted(call, *fakes, 11, 30)
    assert flops == 2 * 4 * 2 * 11 * 30 * 64


def test_parts(device: torch.device) -> None:
    """Of a part its own scores count, of packed sequences those that are in it."""
    q, k = (
        torch.randn(1, heads, length, 32).to(device)
        for heads, length in ((4, 24), (2, 16))
    )
    call = orchard_ops.flash_attention_partial
    flops, _ = counted(call, q, k, k, q_offset=5)
    assert flops == 2 * 4 * 24 * 16 * 64
    ends = torch.tensor([0, 9, 20, 60], dtype=torch.int32).to(device)
    flops, _ = counted(call, q, k, k, q_offset=5, k_offset=12, cu_seqlens=ends)
    assert flops == 2 * 4 * (4 * 0 + 11 * 8 + 9 * 8) * 64


def test_cache(device: torch.device) -> None:
    """Of a cache the keys that are in it count, in pages or not."""
    q, cache = torch.randn(2, 3, 4, 32).to(device), torch.randn(2, 40, 2, 32).to(device)
    lengths = torch.tensor([7, 40], dtype=torch.int32).to(device)
    call = orchard_ops.flash_attention_with_kvcache
    flops, _ = counted(call, q, cache, cache, cache_seqlens=lengths)
    assert flops == 2 * (3 * 4 * 47) * 64
    table = torch.tensor([[1], [0]], dtype=torch.int32).to(device)
    paged, _ = counted(call, q, cache, cache, cache_seqlens=lengths, block_table=table)
    assert paged == flops
