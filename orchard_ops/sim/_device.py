"""``torch.metalsim``: the module that PyTorch expects beside a device type.

PyTorch looks its functions up by name: for seeding, ``fork_rng``,
checkpointing, loading of saved tensors, and autocast.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from types import ModuleType
from typing import Any, Union

import torch
from torch import Tensor
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)
from torch.utils.checkpoint import DefaultDeviceType

from .. import _native
from .._errors import UnsupportedError

__all__ = ["register"]

_Device = Union[int, str, torch.device, None]
_AUTOCAST_DTYPES = [torch.float16, torch.bfloat16]
# From PyTorch 2.4 on it keeps autocast's state for every device itself.
_HAS_DEVICES = hasattr(torch.amp, "is_autocast_available")


def register(name: str) -> None:
    """Name the loaded device, give it its module and the tensor methods."""
    rename_privateuse1_backend(name)
    # PyTorch's function has no types.
    torch._register_device_module(name, _module(name))  # type: ignore[no-untyped-call]
    generate_methods_for_privateuse1_backend(for_storage=True)
    if not torch.cuda.is_available():
        # Up to PyTorch 2.4 checkpointing restores the random state of this device,
        # not of the one that it saved.
        DefaultDeviceType.set_device_type(name)


def _module(name: str) -> ModuleType:
    module = ModuleType(f"torch.{name}", f"The device {name}, one simulated GPU.")
    functions = (
        is_available, is_initialized, init, device_count, current_device, set_device,
        synchronize, empty_cache, device, manual_seed, manual_seed_all, seed, seed_all,
        initial_seed, get_rng_state, set_rng_state, get_amp_supported_dtype,
        is_autocast_enabled, set_autocast_enabled, get_autocast_dtype,
        set_autocast_dtype, _is_in_bad_fork, _lazy_init,
    )  # fmt: skip
    for function in functions:
        setattr(module, function.__name__, function)
    # Checkpointing saves the random state of modules that say so.
    setattr(module, "_initialized", True)  # noqa: B010 - typed as ModuleType
    setattr(module, "amp", _amp(module.__name__))  # noqa: B010 - typed as ModuleType
    return module


def _amp(parent: str) -> ModuleType:
    module = ModuleType(f"{parent}.amp", "What checkpointing asks of autocast.")
    autocast = functools.partial(torch.autocast, parent.rpartition(".")[2])
    setattr(module, "autocast", autocast)  # noqa: B010 - typed as ModuleType
    return module


def is_available() -> bool:
    """Say that the device can be used, which loading it has decided."""
    return True


def is_initialized() -> bool:
    """Say that nothing is left to do before first use."""
    return True


def init() -> None:
    """Do nothing: loading the library was all."""


def _lazy_init() -> None:
    """Do nothing, when PyTorch first makes a tensor here."""


def _is_in_bad_fork() -> bool:
    """Say whether a fork has made the device unusable: none does."""
    return False


def device_count() -> int:
    """Return the number of devices, one."""
    return 1


def current_device() -> int:
    """Return the index of the current device, always 0."""
    return 0


def set_device(device: _Device) -> None:
    """Accept the only device."""
    if _index(device) != 0:
        raise UnsupportedError(f"[metalsim] expected device 0, got {device!r}")


@contextlib.contextmanager
def _only_device(device: _Device) -> Any:
    set_device(device)
    yield


device = _only_device
device.__name__ = "device"


def synchronize(device: _Device = None) -> None:
    """Return at once: operators have finished when they return."""
    set_device(device)


def empty_cache() -> None:
    """Do nothing: recycled buffers belong to the simulator."""


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers."""
    _native.metalsim_ops.manual_seed(_as_signed(seed))


def manual_seed_all(seed: int) -> None:
    """Seed the random numbers of all devices, that is of one."""
    manual_seed(seed)


def seed() -> int:
    """Seed the random numbers from the machine's entropy; return the seed."""
    return _native.metalsim_ops.seed()


def seed_all() -> None:
    """Do as `seed`."""
    seed()


def initial_seed() -> int:
    """Return the current seed."""
    return _native.metalsim_ops.initial_seed()


def get_rng_state(device: _Device = None) -> Tensor:
    """Return the random number generator's state, a CPU tensor of bytes."""
    set_device(device)
    return _native.metalsim_ops.rng_state()


def set_rng_state(new_state: Tensor, device: _Device = None) -> None:
    """Put the random number generator back into a state."""
    set_device(device)
    _native.metalsim_ops.set_rng_state(new_state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the types that an autocast region may have."""
    return list(_AUTOCAST_DTYPES)


class _Autocast(threading.local):
    """What torch.autocast has set in a thread, up to PyTorch 2.3.

    The dispatcher has it too, but an operator that asks there would be seen by
    tracers and dispatch modes in every call of ours.
    """

    is_enabled = False
    dtype = torch.float16


_autocast = _Autocast()


def is_autocast_enabled() -> bool:
    """Say whether an autocast region is open."""
    if _HAS_DEVICES:
        return torch.is_autocast_enabled("metalsim")
    return _autocast.is_enabled


def set_autocast_enabled(enabled: bool) -> None:
    """Switch autocast on or off, for torch.autocast up to PyTorch 2.3."""
    _native.metalsim_ops.set_autocast_enabled(enabled)
    _autocast.is_enabled = enabled


def get_autocast_dtype() -> torch.dtype:
    """Return the type of autocast regions."""
    return torch.get_autocast_dtype("metalsim") if _HAS_DEVICES else _autocast.dtype


def set_autocast_dtype(dtype: torch.dtype) -> None:
    """Set the type of autocast regions, for torch.autocast up to PyTorch 2.3."""
    _native.metalsim_ops.set_autocast_dtype(dtype)
    _autocast.dtype = dtype


def _as_signed(seed: int) -> int:
    """Map a 64-bit seed to the signed integer that an operator takes."""
    return (int(seed) + 2**63) % 2**64 - 2**63


def _index(device: _Device) -> int:
    if device is None:
        return 0
    if isinstance(device, int):
        return max(device, 0)
    return torch.device(device).index or 0
