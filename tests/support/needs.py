"""What tests need of the device they run on, and the one reason why some do not run.

On an mps device, a Mac's or the stand-in's, and on the CPU alone, tests of what only
metalsim has are skipped with a reason from `ONLY_METALSIM`.  Where an mps device can
show the same in another way, the test takes that way instead.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Literal

import pytest
import torch

from orchard_ops import _native

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
# As `nox -s kernels` asks: no samples of what takes long.
IS_WHOLE = os.environ.get("ORCHARD_ALL_KERNELS") == "1"
"""PyTorch's major and minor version: ``TORCH >= (2, 4)``."""

Why = Literal["device", "simulator", "counters", "modes", "families", "untouched"]
ONLY_METALSIM: dict[Why, str] = {
    "device": "about PyTorch's device metalsim",
    "simulator": "runs Metal text, or counts what it does, in the simulator",
    "counters": "PyTorch's MPS allocator has no counter of the peak",
    "modes": "PyTorch's MPS allocator alone chooses the storage mode",
    "families": "a GPU has the class that it has",
    "untouched": "takes memory that is reserved and never touched",
}


@cache
def chosen_device() -> str:
    """Return ORCHARD_TEST_DEVICE, or mps where there is one, else metalsim.

    Raises:
        pytest.UsageError: what is asked for is not here, or nothing is.
    """
    wanted = os.environ.get("ORCHARD_TEST_DEVICE", "")
    if wanted not in ("", "mps", "metalsim", "cpu"):
        raise pytest.UsageError(
            f"ORCHARD_TEST_DEVICE: mps, metalsim or cpu, not {wanted!r}"
        )
    has_mps = torch.backends.mps.is_available()
    if wanted == "mps" and not has_mps:
        raise pytest.UsageError(
            "ORCHARD_TEST_DEVICE=mps, but PyTorch sees no Apple GPU"
        )
    found = wanted or ("mps" if has_mps else "metalsim")
    if found == "metalsim" and not _native.has_simulator():
        raise pytest.UsageError(
            "ORCHARD_TEST_DEVICE: expected mps or cpu, got metalsim, which is the "
            "default where PyTorch sees no Apple GPU; macOS has no simulator, and cpu "
            "runs the tests that need neither"
        )
    return found


def _reason(why: Why) -> str:
    return f"needs metalsim: {ONLY_METALSIM[why]}"


def needs_metalsim(why: Why) -> pytest.MarkDecorator:
    """Skip a test on any other device; ``why`` is a key of `ONLY_METALSIM`."""
    return pytest.mark.skipif(chosen_device() != "metalsim", reason=_reason(why))


def skip_without_metalsim(why: Why) -> None:
    """Skip what runs now: a test, a fixture, or a module while it is imported."""
    if chosen_device() != "metalsim":
        pytest.skip(_reason(why), allow_module_level=True)


@cache
def why_not(dtype: torch.dtype, device: torch.device) -> str:
    """Return PyTorch's reason for having no tensor of a dtype there, or ``""``.

    Its MPS has no bfloat16 before 2.3, and from then on none on macOS 13.
    """
    try:
        torch.zeros(1, dtype=dtype).to(device)
    except TypeError as error:
        return str(error)
    return ""


def skip_without(dtype: torch.dtype, device: torch.device) -> None:
    """Skip the running test if the device has no tensors of a dtype."""
    if reason := why_not(dtype, device):
        pytest.skip(f"no {dtype} on {device.type}: {reason}")
