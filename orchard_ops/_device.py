"""What the commands need to know about the device they run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from . import _native, sim
from ._errors import DeviceError

__all__ = ["STORAGE_MODES", "choose_device", "storage_mode"]

STORAGE_MODES = ("private", "shared")


def choose_device(wanted: str | None = None) -> torch.device:
    """Return the wanted device, else mps where there is one or must be, else metalsim.

    Raises:
        DeviceError: the wanted device is not here, or metalsim cannot be enabled.
    """
    has_mps = torch.backends.mps.is_available()
    if wanted not in (None, "mps", sim.DEVICE):
        raise DeviceError(
            f"[orchard-ops] expected the device mps or metalsim, got {wanted!r}"
        )
    if wanted is None and not _native.has_simulator():
        wanted = "mps"
    if wanted == "mps" and not has_mps:
        raise DeviceError(
            "[orchard-ops] expected the device mps, but this PyTorch sees no Apple GPU;"
            " on macOS see docs/troubleshooting.md, on Linux use metalsim"
        )
    if has_mps and wanted != sim.DEVICE:
        return torch.device("mps")
    sim.enable()
    return torch.device("metalsim")


@contextlib.contextmanager
def storage_mode(device: torch.device, mode: str) -> Iterator[None]:
    """Allocate new metalsim tensors in a mode; on mps PyTorch alone decides."""
    if device.type != "metalsim":
        yield
        return
    with sim.default_storage_mode(mode):
        yield
