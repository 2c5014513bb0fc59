"""What the operators have done so far, and waiting for it."""

from __future__ import annotations

from typing import NamedTuple

from . import _native
from ._errors import translate

__all__ = ["CallCounts", "call_counts", "synchronize"]


class CallCounts(NamedTuple):
    """Work of all threads since the process started."""

    forward: int  # calls that launched forward or decoding kernels
    backward: int
    copies: int  # inputs copied because their last stride was not 1
    bytes_copied: int


def call_counts() -> CallCounts:
    """Count how often kernels ran, and what was copied for them.

    Returns:
        The counts, as a tuple with names.

    Raises:
        DeviceError: no operators are loaded.
    """
    _native.require_loaded("call_counts")
    return CallCounts(*_native.ops.call_counts())


def synchronize() -> None:
    """Wait for the GPU, and raise what failed there.

    Raises:
        DeviceError: a kernel failed, or no operators are loaded.
    """
    _native.require_loaded("synchronize")
    try:
        _native.ops.synchronize()
    except RuntimeError as error:
        raise translate(error, "synchronize") from None
