"""Run a case through orchard_ops and look at the kernels' counters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable

import torch
from cases import Case
from reference import Inputs, Results
from torch import Tensor

import orchard_ops

Place = Callable[[Tensor], Tensor]


@dataclass
class Calls:
    """Launches of forward and backward, and copies made by the bridge."""

    fwd: int = 0
    bwd: int = 0
    copies: int = 0
    bytes_copied: int = 0


@contextmanager
def count_calls() -> Iterator[Calls]:
    """Yield an object that holds, after the block, what happened inside it."""
    calls = Calls()
    before = torch.ops.orchard_ops.call_counts()
    yield calls
    after = torch.ops.orchard_ops.call_counts()
    calls.fwd, calls.bwd, calls.copies, calls.bytes_copied = (
        int(new) - int(old) for new, old in zip(after, before)
    )


@contextmanager
def allocating(device: torch.device, mode: str) -> Iterator[None]:
    """Allocate in a storage mode; on mps PyTorch's allocator alone decides."""
    if device.type != "metalsim":
        yield
        return
    with orchard_ops.sim.default_storage_mode(mode):
        yield


def placer(device: torch.device, mode: str) -> Place:
    """Return a function that copies a tensor to the device in a storage mode."""

    def place(tensor: Tensor) -> Tensor:
        with allocating(device, mode):
            return tensor.to(device)

    return place


def bits(tensor: Tensor) -> Tensor:
    """Return the bit patterns of a tensor's elements, on the CPU."""
    integer = torch.int32 if tensor.element_size() == 4 else torch.int16
    return tensor.detach().cpu().contiguous().view(integer)


def causal_options(case: Case) -> dict[str, object]:
    """Return the keyword arguments that ask for a case's causal mask."""
    if case.causal == "none":
        return {}
    return {"is_causal": True, "causal_alignment": case.causal}


def run_case(
    case: Case,
    inputs: Inputs,
    device: torch.device,
    place: Place | None = None,
    place_grad: Place | None = None,
) -> Results:
    """Run forward and backward; ``place`` moves a CPU tensor to the device."""
    put = place or (lambda tensor: tensor.to(device))
    put_grad = place_grad or put
    q, k, v = (put(t).detach().requires_grad_() for t in (inputs.q, inputs.k, inputs.v))
    out, lse = orchard_ops.flash_attention(
        q, k, v, scale=case.scale, return_lse=True, **causal_options(case)
    )
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), put_grad(inputs.grad_out))
    return Results(*(t.detach().cpu() for t in (out, lse, dq, dk, dv)))
