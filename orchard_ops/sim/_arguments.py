"""What a dispatch is given, in the form that the compiled module takes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from .._errors import InvalidProblemError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Argument",
    "Buffer",
    "Bytes",
    "Size",
    "given",
    "groups_of",
    "is_drawn",
    "required",
    "size3",
    "switched_off",
    "threadgroup_bytes",
]

_SLOTS = 31  # of threadgroup memory, as Metal has them


class Buffer:
    """An array, bound from one of its bytes on: Metal's ``setBuffer`` with an offset.

    What lies before the offset is in the buffer, but strict mode lets no kernel touch
    it. A slice (``a[3:]``) is bound without an offset, as an array of its own.
    """

    def __init__(self, array: np.ndarray[Any, Any] | torch.Tensor, offset: int = 0):
        """Take an array or tensor, and an offset in bytes."""
        self.array = array
        self.offset = offset


class Bytes:
    """A value that is copied when it is bound, at most 4,096 bytes: ``setBytes``.

    Args:
        value: a number, which becomes what its parameter takes, or whatever holds
            bytes: an array, a tensor, a NumPy scalar, ``bytes``.
    """

    def __init__(self, value: Any) -> None:
        """Copy the value."""
        value = _on_host(value)
        if hasattr(value, "tobytes") and getattr(value, "ndim", 0) > 0:
            value = value.tobytes()
        self.value = value


if TYPE_CHECKING:
    Argument = Union[
        np.ndarray[Any, Any], np.generic, torch.Tensor, Buffer, Bytes, bytes, float, int
    ]
    """What a slot may be given."""
else:
    Argument = Any
Size = Union[int, Sequence[int]]
"""Up to three numbers; those that are missing are 1."""


def given(
    kernel: str, arguments: Mapping[int, Argument] | Sequence[Argument | None]
) -> list[tuple[int, Any, int]]:
    """Return slot, value and offset of each argument.

    Raises:
        InvalidProblemError: an offset is no number from 0, or a tensor lies elsewhere.
    """
    pairs = (
        arguments.items() if isinstance(arguments, Mapping) else enumerate(arguments)
    )
    return [_given(kernel, slot, value) for slot, value in pairs if value is not None]


def size3(kernel: str, name: str, value: Size) -> tuple[int, int, int]:
    """Return a size in three dimensions.

    Raises:
        InvalidProblemError: it is no size.
    """
    numbers = (value,) if isinstance(value, int) else tuple(value)
    if not 1 <= len(numbers) <= 3 or any(not 0 <= n < 2**32 for n in numbers):
        raise InvalidProblemError(
            f"[{kernel}] expected {name} of one to three numbers from 0, got {value!r}"
        )
    x, y, z = (*numbers, 1, 1)[:3]
    return int(x), int(y), int(z)


def _given(kernel: str, slot: int, value: Any) -> tuple[int, Any, int]:
    if not isinstance(slot, int) or not 0 <= slot <= 30:
        raise InvalidProblemError(
            f"[{kernel}] expected slots from 0 to 30, got {slot!r}; they are the "
            "numbers of [[buffer(n)]]"
        )
    if isinstance(value, Bytes):
        return slot, value.value, 0
    offset = 0
    if isinstance(value, Buffer):
        value, offset = value.array, value.offset
    if not isinstance(offset, int) or offset < 0:
        raise InvalidProblemError(
            f"[{kernel}] argument {slot}: expected an offset in bytes, from 0, got "
            f"{offset!r}"
        )
    return slot, _on_host(value, f"[{kernel}] argument {slot}"), offset


def _on_host(value: Any, where: str = "[sim.Bytes]") -> Any:
    """Return a tensor as an array of the same memory, anything else as it is."""
    torch = sys.modules.get("torch")  # Without it there are no tensors.
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    if value.device.type != "cpu" or value.layout != torch.strided:
        raise InvalidProblemError(
            f"{where}: expected a dense tensor on the CPU, got one on "
            f"{str(value.device)!r} of {value.layout}; pass tensor.cpu()"
        )
    tensor = value.detach()
    if tensor.dtype is torch.bfloat16:  # which NumPy lacks: its bits
        return tensor.view(torch.int16).numpy().view("uint16")
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise InvalidProblemError(
            f"{where}: expected a tensor that NumPy can share, got one of "
            f"{tensor.dtype}: {error}"
        ) from error


def required(kernel: str, name: str, size: Size | None) -> Size:
    if size is None:
        raise InvalidProblemError(
            f"[{kernel}] expected {name}, the threads of a threadgroup, got none"
        )
    return size


def groups_of(
    threads: tuple[int, int, int], group: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return how many threadgroups make up so many threads; the last may be cut."""
    x, y, z = (-(-all_ // max(of, 1)) for all_, of in zip(threads, group))
    return x, y, z


def switched_off(
    kernel: str, strict: bool | Collection[str] | None, suppress: Collection[str]
) -> list[str]:
    """Return the checks that are off, and those that are off at one line."""
    from .. import _sim

    known = _sim.CHECKS
    chosen = known if strict is None or isinstance(strict, bool) else strict
    places = [suppress] if isinstance(suppress, str) else list(suppress)
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if name not in known:
            raise InvalidProblemError(
                f"[{kernel}] expected checks of {known} in strict, got {name!r}"
            )
    for place in places:
        check, _, where = place.partition("@")
        if check not in known or not where.rpartition(":")[2].isdigit():
            raise InvalidProblemError(
                f"[{kernel}] expected a check of {known} at a line in suppress, as in "
                f"'races@k.metal:42', got {place!r}"
            )
    return [name for name in known if name not in names] + places


def is_drawn(kernel: str, layout: str | None) -> bool | None:
    """Return whether lanes change places; None for the process's setting."""
    if layout not in (None, "apple", "drawn"):
        raise InvalidProblemError(
            f"[{kernel}] expected a layout of ('apple', 'drawn'), got {layout!r}"
        )
    return None if layout is None else layout == "drawn"


def threadgroup_bytes(kernel: str, memory: int | Mapping[int, int]) -> list[int]:
    """Return the bytes of each slot from 0 to the last one that is set."""
    slots = {0: memory} if isinstance(memory, int) else dict(memory)
    if any(not 0 <= slot < _SLOTS for slot in slots):
        raise InvalidProblemError(
            f"[{kernel}] expected threadgroup memory for slots 0 to {_SLOTS - 1}, got "
            f"it for {sorted(slots)}"
        )
    return [slots.get(slot, 0) for slot in range(max(slots, default=-1) + 1)]
