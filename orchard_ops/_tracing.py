"""Which PyTorch this is, and what it is doing with the code that runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["TORCH", "is_compiling", "is_recorded", "promise_range"]

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

# Replaced by True in what torch.compile traces; named so from PyTorch 2.3 on.
is_compiling = (
    torch.compiler.is_compiling
    if hasattr(torch.compiler, "is_compiling")
    else torch._utils.is_compiling
)


def is_recorded(tensor: Tensor) -> bool:
    """Say whether a compiler, tracer or TorchDispatchMode takes down what is called."""
    if is_compiling():
        return True
    is_watched = torch._C._len_torch_dispatch_stack() > 0 or torch._C._is_tracing()
    return is_watched or type(tensor) is FakeTensor


def promise_range(number: int, low: int, high: int) -> None:
    """Tell torch.compile that a number lies in a range, which it checks in each run.

    A number that was computed from a tensor is known only then, and asking for it, as
    checks do, would end the graph.
    """
    if is_compiling():
        # PyTorch's function has no types.
        torch._check(number >= low)  # type: ignore[no-untyped-call]
        torch._check(number <= high)  # type: ignore[no-untyped-call]
