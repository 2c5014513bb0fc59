"""The simulator's compiled module, and the compiler that it calls."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from .. import _libraries
from .._errors import DeviceError, InvalidProblemError

__all__ = ["compiler", "load"]


def load() -> None:
    """Load the compiled module ``_sim``, and tell it which compiler to call.

    Raises:
        DeviceError: no compiler or no simulator was found.
    """
    if _libraries.HAS_TORCH:
        from .. import _native

        _native.load_sim()
    else:
        _libraries.load_sim()
    from .. import _sim

    _sim.set_compiler(shlex.join(compiler()))


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
