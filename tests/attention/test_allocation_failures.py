"""Memory that runs out, at each allocation of a forward and its backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable

import pytest
import torch
from cases import F16, F32, Case, Mask
from harness import allocated_bytes, attend, lay_out
from needs import skip_without_metalsim
from reference import make_inputs
from torch import Tensor

import orchard_ops
from orchard_ops import DeviceError

skip_without_metalsim("counters")

PLAIN = Case("allocations", F32, heads_q=2, heads_kv=1, len_q=40, len_kv=40)
CASES = {
    "plain": PLAIN,
    "half": replace(PLAIN, dtype=F16, causal="top-left"),
    "bias": replace(PLAIN, mask=Mask("float", "qk", hidden="none")),
    "sinks-and-lse": replace(PLAIN, sinks="normal", grad_lse=True),
    "dropout": replace(PLAIN, dropout=0.2),
    "strided": replace(PLAIN, layout="transposed"),
}
OUT_OF_MEMORY = "out of memory"


def fail_allocation(after: int) -> None:
    """Let the allocation that many after the next fail; below 0 none."""
    torch.ops.orchard_metalsim.fail_allocation(after)


def trainer(name: str, device: torch.device) -> Callable[[], list[Tensor]]:
    """Return a step that gives its output and gradients, and makes no inputs."""
    case = replace(CASES[name], name=f"allocations-{name}")
    inputs = make_inputs(case)

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    leaves = [lay_out(t, case.layout, put).detach() for t in inputs.core[:3]]
    more: dict[str, Any] = {}
    for label in ("attn_mask", "sinks"):
        tensor = getattr(inputs, label)
        if tensor is not None:
            more[label] = put(tensor)
            leaves.append(more[label])
    for leaf in leaves:
        leaf.requires_grad_()
    grads = [put(inputs.grad_out)]
    if inputs.grad_lse is not None:
        grads.append(put(inputs.grad_lse))

    def step() -> list[Tensor]:
        torch.manual_seed(5)
        out, lse = attend(case, *leaves[:3], case.grad_lse, **more)
        outputs = [out] if lse is None else [out, lse]
        return [out.detach(), *torch.autograd.grad(outputs, leaves, grads)]

    return step


@pytest.mark.parametrize("scratch", [0, None], ids=["recomputing", "keeping"])
@pytest.mark.parametrize("name", CASES)
def test_each_allocation_may_fail(
    name: str, scratch: int | None, device: torch.device
) -> None:
    """An error says so, nothing stays held, and the next step has the same bits."""
    with orchard_ops.backward_scratch(1 << 20 if scratch is None else scratch):
        step = trainer(name, device)
        want = [tensor.cpu() for tensor in step()]
        held = allocated_bytes(device)
        fail_allocation(-1)
        step()
        count = torch.ops.orchard_metalsim.allocations()
        assert count >= 5  # out, lse and three gradients at least
        for index in range(count):
            fail_allocation(index)
            try:
                with pytest.raises(RuntimeError, match=OUT_OF_MEMORY):
                    step()
            finally:
                fail_allocation(-1)
            assert allocated_bytes(device) == held, index
        got = [tensor.cpu() for tensor in step()]
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_a_forward_raises_our_error(device: torch.device) -> None:
    """The public function's error is typed; autograd passes on PyTorch's alone."""
    q = torch.randn(1, 1, 8, 16).to(device)
    fail_allocation(0)
    try:
        with pytest.raises(DeviceError, match=OUT_OF_MEMORY):
            orchard_ops.flash_attention(q, q, q)
    finally:
        fail_allocation(-1)


@pytest.mark.parametrize("paged", [False, True])
def test_decoding_may_fail_too(paged: bool, device: torch.device) -> None:
    """A step that found no memory can be made again: its lengths are the caller's."""
    q = torch.randn(2, 1, 2, 16).to(device)
    caches = [torch.randn(4, 16, 1, 16).to(device) for _ in range(2)]
    new = [torch.randn(2, 1, 1, 16).to(device) for _ in range(2)]
    lengths = torch.tensor([5, 9], dtype=torch.int32).to(device)
    more: dict[str, Any] = {}
    if paged:
        more["block_table"] = torch.tensor([[0, 2], [3, 1]], dtype=torch.int32).to(
            device
        )
    else:
        more["cache_batch_idx"] = torch.tensor([1, 3], dtype=torch.int32).to(device)

    def step() -> Tensor:
        return orchard_ops.flash_attention_with_kvcache(
            q, *caches, *new, cache_seqlens=lengths, num_splits=2, **more
        )

    want = step().cpu()
    held = allocated_bytes(device)
    fail_allocation(-1)
    step()
    count = torch.ops.orchard_metalsim.allocations()
    for index in range(count):
        fail_allocation(index)
        try:
            with pytest.raises(RuntimeError, match=OUT_OF_MEMORY):
                step()
        finally:
            fail_allocation(-1)
        assert allocated_bytes(device) == held, index
    assert torch.equal(step().cpu(), want)
