"""What PyTorch is doing with the code that runs, by version."""

from __future__ import annotations

import torch

__all__ = ["is_compiling", "is_transformed"]

# Replaced by True in what torch.compile traces; named so from PyTorch 2.3 on.
is_compiling = (
    torch.compiler.is_compiling
    if hasattr(torch.compiler, "is_compiling")
    else torch._utils.is_compiling
)


def is_transformed() -> bool:
    """Say whether a torch.func transform (grad, vmap, jvp, ...) is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None
