"""The device of cuda tensors, which the package itself refuses."""

from __future__ import annotations

import torch


def open_device() -> torch.device:
    """Return the GPU."""
    torch.cuda.init()
    return torch.device("cuda")
