"""Run a case through orchard_ops and look at the kernels' counters."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Callable

import torch
from cases import Case
from needs import skip_without
from reference import Inputs, Results
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import orchard_ops

Place = Callable[[Tensor], Tensor]


@dataclass
class Calls:
    """Launches of forward and backward, and copies made by the bridge."""

    fwd: int = 0
    bwd: int = 0
    copies: int = 0
    bytes_copied: int = 0


class Operators(TorchDispatchMode):
    """Collects the names of PyTorch's operators that are called, below autograd."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the name and go on."""
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def count_calls() -> Iterator[Calls]:
    """Yield an object that holds, after the block, what happened inside it."""
    calls = Calls()
    before = orchard_ops.call_counts()
    yield calls
    after = orchard_ops.call_counts()
    calls.fwd, calls.bwd, calls.copies, calls.bytes_copied = (
        new - old for new, old in zip(after, before)
    )


@contextmanager
def allocating(device: torch.device, mode: str) -> Iterator[None]:
    """Allocate in a storage mode; on mps PyTorch's allocator alone decides."""
    if device.type != "metalsim":
        yield
        return
    with orchard_ops.sim.default_storage_mode(mode):
        yield


def allocated_bytes(device: torch.device) -> int:
    """Return how many bytes of the device's memory tensors hold, once all has run."""
    _wait_for_autograd(device)
    gc.collect()
    if device.type == "metalsim":
        return int(orchard_ops.sim.memory().allocated_bytes)
    # What waits for the GPU is given back when it has finished.
    torch.mps.synchronize()
    return int(torch.mps.current_allocated_memory())


def _wait_for_autograd(device: torch.device) -> None:
    """Let autograd's thread of the device let go of the last backward.

    It holds what the last node holds, a leaf with its gradient, until it has told the
    caller that all is done and gone on to wait for the next node: so it gets another,
    which leaves nothing behind on the device.
    """
    number = torch.zeros((), requires_grad=True)
    number.to(device).backward()


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


def options(case: Case) -> dict[str, Any]:
    """Return a case's keyword arguments, but for tensors and scale."""
    return {
        "is_causal": case.causal != "none",
        "causal_alignment": "bottom-right" if case.is_bottom_right else "top-left",
        "window": case.window,
        "softcap": case.softcap,
        "dropout_p": case.dropout,
    }


def lay_out(tensor: Tensor, layout: str, put: Place) -> Tensor:
    """Copy a CPU tensor into a view, on the device, of memory that poison fills."""
    if layout == "contiguous":
        return put(tensor)
    if layout == "expanded":  # its values are those of its first head and row
        return put(tensor[:, :1, :1]).expand(tensor.shape)
    swapped = {"transposed": (-3, -2), "mask-transposed": (-2, -1)}
    if layout in swapped:
        return put(tensor.transpose(*swapped[layout]).contiguous()).transpose(
            *swapped[layout]
        )
    poison = True if tensor.dtype == torch.bool else torch.nan
    view = tuple(slice(1, 1 + size) for size in tensor.shape)
    # Odd sizes make odd strides, so that only single elements are aligned.
    shape = [(size + 2) | 1 for size in tensor.shape]
    base = torch.full(shape, poison, dtype=tensor.dtype)
    base[view] = tensor
    return put(base)[view]


def run_case(
    case: Case,
    inputs: Inputs,
    device: torch.device,
    place: Place | None = None,
    place_grad: Place | None = None,
    asks_lse: bool = True,
) -> Results:
    """Run forward and backward; ``place`` moves a CPU tensor to the device.

    Without asks_lse it is the plain call, which may take another way, and lse is None.
    """
    skip_without(case.dtype, device)
    put = place or (lambda tensor: tensor.to(device))
    q, k, v = (
        lay_out(t, case.layout, put).detach().requires_grad_() for t in inputs.core[:3]
    )
    grad_out = lay_out(inputs.grad_out, case.layout, place_grad or put)
    leaves, tensors = [q, k, v], {}
    if inputs.alibi_slopes is not None:
        tensors["alibi_slopes"] = put(inputs.alibi_slopes)
    mask, sinks = inputs.attn_mask, inputs.sinks
    if mask is not None:
        skip_without(mask.dtype, device)
        layout = case.mask.layout
        layout = "mask-transposed" if layout == "transposed" else layout
        mask = tensors["attn_mask"] = lay_out(mask, layout, put).detach()
        if mask.is_floating_point():
            leaves.append(mask.requires_grad_())
    if sinks is not None:
        sinks = tensors["sinks"] = put(sinks).detach().requires_grad_()
        leaves.append(sinks)
    torch.manual_seed(case.manual_seed)
    out, lse = attend(case, q, k, v, asks_lse, **tensors)
    outputs, grads = [out], [grad_out]
    if lse is not None and inputs.grad_lse is not None:
        outputs.append(lse)
        grads.append(put(inputs.grad_lse))
    gradients = [t.cpu() for t in torch.autograd.grad(outputs, leaves, grads)]
    lse = None if lse is None else lse.detach().cpu()
    results = Results(out.detach().cpu(), lse, *gradients[:3])
    if mask is not None and mask.requires_grad:
        results = replace(results, dmask=gradients[3])
    if sinks is not None:
        results = replace(results, dsinks=gradients[-1])
    return results


def attend(
    case: Case,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    asks_lse: bool = True,
    **tensors: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Call the public function for a case; return out, and lse if asked for."""
    arguments = dict(options(case), scale=case.scale, **tensors)
    if asks_lse:
        arguments["return_lse"] = True
    if not case.sequences:
        result = orchard_ops.flash_attention(q, k, v, **arguments)
        return result if asks_lse else (result, None)
    ends = sequence_ends(case, q.device)
    result = orchard_ops.flash_attention_varlen(q, k, v, *ends, **arguments)
    return result if asks_lse else (result, None)


def sequence_ends(case: Case, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """Return where the sequences of a packed case begin, and the longest."""
    ends, longest = [], []
    for side in zip(*case.sequences):
        sums = list(itertools.accumulate(side, initial=0))
        ends.append(torch.tensor(sums, dtype=torch.int32).to(device))
        longest.append(max(side))
    return ends[0], ends[1], longest[0], longest[1]
