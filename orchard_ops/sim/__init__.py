"""The simulator: the ``metalsim`` device of PyTorch, and the simulator alone.

>>> from orchard_ops import sim
>>> sim.enable()
>>> x = torch.randn(2, 3, device="metalsim")

Without PyTorch's device, `compile` runs any Metal kernel on NumPy arrays.
Importing this module loads nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar, overload

import torch

from .. import _native
from .._errors import DeviceError, InvalidProblemError
from . import _device

if TYPE_CHECKING:
    from .._sim import Kernel

__all__ = [
    "DEVICE",
    "Footprint",
    "Kernel",
    "Memory",
    "Setting",
    "check",
    "compile",
    "compiler",
    "counters",
    "default_storage_mode",
    "enable",
    "family",
    "idle",
    "kernel_counters",
    "memory",
    "reset_counters",
    "reset_peak_memory",
    "seed",
    "strict",
]

_T = TypeVar("_T")

DEVICE = "metalsim"
"""The device's name: ``torch.device(sim.DEVICE)``."""

if not TYPE_CHECKING:
    Kernel = Any
    """A compiled kernel, as `compile` returns it (the class lives in ``_sim``)."""

# What PyTorch calls the device type before anybody renames it.
_UNNAMED = "privateuseone"
_LAST_MOMENT = 0.1  # seconds
_MODES = ("private", "shared")
_FAMILIES = ("A", "B", "C")
_LANGUAGES = {
    "3.0": 0x30000,
    "3.1": 0x30001,
    "3.2": 0x30002,
    "4.0": 0x40000,
}  # as Metal counts them


@dataclass(frozen=True)
class Memory:
    """Bytes of simulated buffers."""

    allocated_bytes: int
    """Held by live tensors now."""
    peak_bytes: int
    """The most that was held at once since the last `reset_peak_memory`."""


@dataclass(frozen=True)
class Footprint:
    """What a kernel's text takes besides registers."""

    threadgroup_bytes: int
    """Threadgroup memory that all kernels of the text declare."""
    spilled: tuple[str, ...]
    """Types (LLVM's) of arrays that are indexed by what is no constant, so that no
    compiler can keep them in registers: slow memory on a GPU."""


class Setting:
    """A changed setting; as a context manager it is undone at the block's end."""

    def __init__(self, change: Callable[[_T], None], before: _T, now: _T) -> None:
        """Change it, and remember what it was before."""
        change(now)
        self._undo = functools.partial(change, before)

    def __enter__(self) -> None:
        """Enter the block; the setting was changed before."""

    def __exit__(self, *_: object) -> None:
        """Undo the change."""
        self._undo()


def enable() -> None:
    """Register ``torch.device("metalsim")``; calling it again changes nothing.

    Call it before the process's first backward pass: PyTorch's autograd counts the
    devices then, once, and fails later for one that it has not seen.

    Raises:
        DeviceError: another library has taken PyTorch's device type
            PrivateUse1, or the compiled library is missing.
    """
    name = torch._C._get_privateuse1_backend_name()
    if name == DEVICE:
        return
    if name != _UNNAMED:
        raise DeviceError(
            f"[sim.enable] expected PyTorch's device type PrivateUse1 free, found "
            f"{name!r} there; use the two libraries in different processes"
        )
    _native.load_metalsim()
    _device.register(DEVICE)
    with contextlib.suppress(DeviceError):  # needed by kernels only
        _native.metalsim_ops.set_compiler(shlex.join(compiler()))
    # PyTorch's autograd thread of a device lets go of a backward's Python objects a
    # moment after backward has returned; 2.13 aborts a process that ends before that.
    atexit.register(time.sleep, _LAST_MOMENT)


@overload
def default_storage_mode() -> str: ...
@overload
def default_storage_mode(mode: str) -> Setting: ...
def default_storage_mode(mode: str | None = None) -> str | Setting:
    """Get or set the storage mode of metalsim tensors made from now on.

    Args:
        mode: ``"private"``, which the host cannot reach (MPS up to PyTorch
            2.11), or ``"shared"``; without it, the current mode is returned.

    Returns:
        The mode, or a `Setting` that restores the previous mode if used in
        ``with``.

    Raises:
        InvalidProblemError: no such mode.
    """
    enable()
    ops = _native.metalsim_ops
    previous = ops.storage_mode()
    if mode is None:
        return previous
    if mode not in _MODES:
        raise InvalidProblemError(
            f"[sim.default_storage_mode] expected one of {_MODES}, got {mode!r}"
        )
    return Setting(ops.set_storage_mode, previous, mode)


def memory() -> Memory:
    """Return how much simulated memory is held now and was held at most."""
    enable()
    allocated, peak = _native.metalsim_ops.memory()
    return Memory(allocated, peak)


def reset_peak_memory() -> None:
    """Let `memory` report the most that is held from now on."""
    enable()
    _native.metalsim_ops.reset_peak_memory()


def seed(value: int) -> None:
    """Choose the order in which the simulated threads run.

    Correct kernels give the same bits under every seed.  This is not the seed
    of random numbers: for those there is ``torch.manual_seed``.

    Args:
        value: 0 for the plain order, any other number for another one.
    """
    enable()
    _native.metalsim_ops.set_schedule_seed(_as_signed(value))


def strict(enabled: bool = True) -> Setting:
    """Switch the checks that cost much (races among them) on or off.

    Returns:
        A `Setting` that restores the previous state if used in ``with``.
    """
    enable()
    ops = _native.metalsim_ops
    return Setting(ops.set_strict, ops.strict(), enabled)


def idle(enabled: bool = True) -> Setting:
    """Drop every launch, so that a call's time is the host's alone; results are junk.

    Returns:
        A `Setting` that restores the previous state if used in ``with``.
    """
    enable()
    ops = _native.metalsim_ops
    return Setting(ops.set_idle, ops.idle(), enabled)


def counters() -> dict[str, int]:
    """Return what the kernels did since the last reset, name → count."""
    enable()
    names, values = _native.metalsim_ops.counters()
    return dict(zip(names, values))


def kernel_counters() -> dict[str, dict[str, int]]:
    """Return the counters of each kernel function since the last reset, by name."""
    enable()
    result: dict[str, dict[str, int]] = {}
    for kernel, name, value in zip(*_native.metalsim_ops.kernel_counters()):
        result.setdefault(kernel, {})[name] = value
    return result


@overload
def family() -> str: ...
@overload
def family(name: str) -> Setting: ...
def family(name: str | None = None) -> str | Setting:
    """Get or set the class of GPU that kernels' tiles are chosen for.

    Args:
        name: ``"A"`` (M1, M2), ``"B"`` (M3, M4) or ``"C"`` (M5); without it, the
            current class is returned.

    Returns:
        The class, or a `Setting` that restores the previous one if used in ``with``.

    Raises:
        InvalidProblemError: no such class.
    """
    enable()
    ops = _native.metalsim_ops
    previous = ops.family()
    if name is None:
        return previous
    if name not in _FAMILIES:
        raise InvalidProblemError(
            f"[sim.family] expected one of {_FAMILIES}, got {name!r}"
        )
    return Setting(ops.set_family, previous, name)


def reset_counters() -> None:
    """Set every counter to zero."""
    enable()
    _native.metalsim_ops.reset_counters()


def compile(  # noqa: A001 - the design's name, used as sim.compile
    source: str, entry: str, defines: Mapping[str, str] | None = None
) -> Kernel:
    """Compile a Metal kernel for use on NumPy arrays, without PyTorch.

    Args:
        source: text in the Metal shading language.
        entry: name of the kernel function, or its ``host_name``.
        defines: preprocessor macros, name → value.

    Raises:
        KernelCompileError: the text was refused; holds the compiler's message.
        DeviceError: no compiler or no simulator was found.
    """
    _native.load_sim()
    from .. import _sim

    _sim.set_compiler(shlex.join(compiler()))
    return _sim.compile(source, entry, dict(defines or {}))


def check(
    source: str, defines: Mapping[str, str] | None = None, *, language: str = "3.1"
) -> Footprint:
    """Check a kernel by Metal's rules, most of which running it here does not need.

    Names, address spaces, attributes and signatures follow the specification; types
    are those of Metal's library: the overloads that it has, vectors without places for
    their components, no silent conversion to bfloat, simdgroup functions on the types
    that they take.  What passes may still be refused by Apple's compiler.

    Args:
        source: text in the Metal shading language.
        defines: preprocessor macros, name → value.
        language: Metal's version: ``"3.0"`` (macOS 13, without bfloat), ``"3.1"``,
            ``"3.2"`` (macOS 15) or ``"4.0"``.

    Returns:
        What the text takes besides registers.

    Raises:
        KernelCompileError: a rule is broken; holds lines and reasons.
        InvalidProblemError: another language version.
        DeviceError: no compiler or no simulator was found.
    """
    if language not in _LANGUAGES:
        raise InvalidProblemError(
            f"[sim.check] expected a language of {tuple(_LANGUAGES)}, got {language!r}"
        )
    _native.load_sim()
    from .. import _sim

    _sim.set_compiler(shlex.join(compiler()))
    found = _sim.accept(source, dict(defines or {}), _LANGUAGES[language])
    return Footprint(found[0], tuple(found[1]))


def compiler() -> tuple[str, ...]:
    """Return the command that compiles kernels to native code.

    It is ``ORCHARD_SIM_CXX`` if that variable is set, else zig of the package
    ``ziglang`` or of this environment, else ``clang++`` on the path.

    Raises:
        DeviceError: there is none.
        InvalidProblemError: the variable is no command.
    """
    words = _words_of(os.environ.get("ORCHARD_SIM_CXX", ""))
    if words:
        return words
    zig = _zig()
    if zig is not None:
        return (str(zig), "c++")
    clang = shutil.which("clang++")
    if clang is not None:
        return (clang,)
    raise DeviceError(
        "[sim.compiler] expected a clang to compile kernels with, found none; "
        "pip install ziglang==0.14.1, or set ORCHARD_SIM_CXX"
    )


def _words_of(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidProblemError(
            f"[sim.compiler] expected ORCHARD_SIM_CXX to be a command, got "
            f"{command!r}: {error}; quote it as for a shell"
        ) from None
    return tuple(words) if any(words) else ()


def _zig() -> Path | None:
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name("zig")
    else:  # Conda's zig is no Python package.
        path = Path(sys.prefix, "bin", "zig")
    return path if path.is_file() else None


def _as_signed(value: int) -> int:
    """Map 64 bits to the signed integer that an operator takes."""
    return (value + 2**63) % 2**64 - 2**63
