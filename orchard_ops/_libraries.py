"""The part of finding compiled libraries that needs no PyTorch.

They lie in the package's directory, or in the one that the environment
variable ``ORCHARD_LIBRARY_DIR`` names (development builds).  In a wheel for Linux they
lie in its folders ``abi0`` and ``abi1``: see _native.py.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from ._errors import DeviceError, InvalidProblemError

__all__ = [
    "HAS_TORCH",
    "VERSION",
    "has_simulator",
    "library_dir",
    "load_sim",
    "loaded",
    "missing",
    "require_simulator",
]


def _has_torch() -> bool:
    wanted = os.environ.get("ORCHARD_TORCH", "")
    if wanted not in ("", "never"):
        raise InvalidProblemError(
            f"[orchard_ops] expected ORCHARD_TORCH to be 'never' or not set, got "
            f"{wanted!r}; unset it to use PyTorch"
        )
    return not wanted and importlib.util.find_spec("torch") is not None


HAS_TORCH = _has_torch()
"""Whether this process has PyTorch, and may have it imported.

``ORCHARD_TORCH=never`` says that it is wanted for the simulator alone.
"""

loaded: dict[str, Path] = {}
"""Name → path of the libraries that this process has loaded."""


def library_dir() -> Path:
    """Return the directory in which the compiled libraries are looked for."""
    override = os.environ.get("ORCHARD_LIBRARY_DIR")
    return Path(override) if override else Path(__file__).parent


def has_simulator() -> bool:
    """Say whether this system has the simulator: macOS, with its GPU, has none.

    It links what it compiles as ELF and reads faults as Linux reports them.
    """
    return sys.platform != "darwin"


def load_sim(folder: Path | None = None) -> None:
    """Load ``_sim``, the simulator's own Python module (NumPy, no torch).

    Args:
        folder: of PyTorch's operators, so that both use one library of the
            simulator; by default the first that has a module for this Python.

    Raises:
        DeviceError: no module built for this Python is found, or this system has no
            simulator.
    """
    require_simulator()
    name = f"{__package__}._sim"
    if name in sys.modules:
        return
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    here = library_dir()
    folders = [folder] if folder is not None else [here, here / "abi1", here / "abi0"]
    candidates = [at / f"_sim{suffix}" for at in folders for suffix in suffixes]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DeviceError(missing("_sim" + suffixes[0]))
    _import_file(name, path)
    loaded["_sim"] = path


def require_simulator() -> None:
    """Raise DeviceError on a system that has no simulator."""
    if not has_simulator():
        raise DeviceError(
            "[sim] expected Linux, which the simulator needs, got macOS; "
            "use the GPU here (device 'mps'), or a Linux machine for the simulator"
        )


def missing(name: str) -> str:
    """Return the sentence for a library that is not there."""
    return (
        f"[orchard_ops] expected the compiled library {name} in {library_dir()}, found "
        "none; install the package (pip install . --no-build-isolation) or point "
        "ORCHARD_LIBRARY_DIR at a build"
    )


@cache
def _build_info() -> dict[str, str]:
    """Read ``_build_info.py``, which the build writes beside the libraries."""
    for directory in (library_dir(), Path(__file__).parent):
        path = directory / "_build_info.py"
        if path.is_file():
            return vars(_import_file(f"{__package__}._build_info", path))
    return {}


def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DeviceError(f"[orchard_ops] {path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise DeviceError(f"[orchard_ops] cannot load {path}: {error}") from error
    return module


def _version() -> str:
    built = _build_info().get("VERSION")
    if built:
        return built
    try:
        return importlib.metadata.version("orchard-ops")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"


VERSION = _version()
