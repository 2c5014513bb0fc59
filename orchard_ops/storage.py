"""Where a tensor's memory lies, as the kernels see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from . import _native
from ._arguments.checks import check_is_tensor
from ._errors import UnsupportedError, translate

__all__ = ["StorageDescription", "describe"]


@dataclass(frozen=True)
class StorageDescription:
    """The buffer behind a tensor and the tensor's place in it."""

    storage_mode: str
    """``"private"``, ``"shared"``, ``"managed"``, or ``"host"`` for CPU tensors."""
    buffer_length_bytes: int
    """Length of the whole buffer, which other tensors may share."""
    byte_offset: int
    """Where the tensor's first element lies in the buffer."""
    is_contiguous: bool
    """Whether the elements lie densely in row-major order."""
    device_name: str
    """The GPU's or the simulator's name; ``"cpu"`` for CPU tensors."""


def describe(tensor: Tensor) -> StorageDescription:
    """Describe the storage of a tensor; reads no element of it.

    The kernels take buffers of every mode as they are, at
    ``tensor.storage_offset() * tensor.element_size()``, without a copy.

    Args:
        tensor: any shape, strides and dtype, on mps, metalsim or cpu.

    Raises:
        InvalidProblemError: the argument is not a tensor.
        UnsupportedError: the tensor lies on another device, or is not a dense one.
        DeviceError: its buffer is unknown to the device, or no library is loaded.
    """
    check_is_tensor("describe", "tensor", tensor)
    is_contiguous = tensor.is_contiguous()
    if tensor.device.type == "cpu":
        offset = int(tensor.storage_offset()) * tensor.element_size()
        length = tensor.untyped_storage().nbytes()
        return StorageDescription("host", length, offset, is_contiguous, "cpu")
    if tensor.device.type not in ("mps", "metalsim"):
        raise UnsupportedError(
            f"[describe] expected a tensor on mps, metalsim or cpu, got {tensor.device}"
        )
    _native.require_loaded("describe")
    try:
        mode, length, offset, name = _native.ops.describe_storage(tensor)
    except RuntimeError as error:
        raise translate(error) from None
    return StorageDescription(mode, length, offset, is_contiguous, name)
