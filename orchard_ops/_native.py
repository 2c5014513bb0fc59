"""The one place that finds and loads the compiled libraries.

They lie in the package's directory, or in the one that the environment
variable ``ORCHARD_LIBRARY_DIR`` names (development builds).
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
from typing import TYPE_CHECKING, Any, Callable

import torch

from ._errors import DeviceError

if TYPE_CHECKING:
    from . import _C as ops  # noqa: N811 - a library's name
    from . import _metalsim as metalsim_ops
else:  # Both are empty until their library is loaded.
    ops = torch.ops.orchard_ops
    metalsim_ops = torch.ops.orchard_metalsim

__all__ = [
    "VERSION",
    "check_torch_version",
    "has_ops",
    "has_simulator",
    "is_loaded",
    "library_dir",
    "load_metalsim",
    "load_ops",
    "load_sim",
    "loaded_libraries",
    "metalsim_ops",
    "operator",
    "ops",
    "require_loaded",
]

_loaded: dict[str, Path] = {}


def library_dir() -> Path:
    """Return the directory in which the compiled libraries are looked for."""
    override = os.environ.get("ORCHARD_LIBRARY_DIR")
    return Path(override) if override else Path(__file__).parent


def loaded_libraries() -> dict[str, Path]:
    """Return name → path of the libraries that this process has loaded."""
    return dict(_loaded)


def is_loaded(name: str) -> bool:
    """Say whether this process has loaded a library."""
    return name in _loaded


@cache
def operator(name: str) -> Callable[..., Any]:
    """Return one of our operators.

    Raises:
        DeviceError: the package came without them.
    """
    require_loaded(__package__)
    overload = getattr(torch.ops.orchard_ops, name).default
    # The function inside, to spare each call a frame that only passes arguments on.
    function: Callable[..., Any] = getattr(overload, "_op", overload)
    return function


def require_loaded(name: str) -> None:
    """Raise DeviceError unless the operators are loaded, for a public function."""
    if not is_loaded("_C"):
        raise DeviceError(
            f"[{name}] expected the compiled operators, found no _C.so in "
            f"{library_dir()}; build the package"
        )


def has_ops() -> bool:
    """Say whether the operator library exists (a bare source tree has none)."""
    return (library_dir() / "_C.so").is_file()


def has_simulator() -> bool:
    """Say whether this system has the simulator: macOS, with its GPU, has none.

    It links what it compiles as ELF and reads faults as Linux reports them.
    """
    return sys.platform != "darwin"


def load_ops() -> None:
    """Load ``_C``, which registers ``torch.ops.orchard_ops``.

    Raises:
        DeviceError: the library is missing, was built for another PyTorch
            minor version, or cannot be loaded.
    """
    _load_torch_library("_C")


def load_metalsim() -> None:
    """Load ``_metalsim``, which gives PyTorch the simulator's device.

    Raises:
        DeviceError: as ``load_ops``, or this system has no simulator.
    """
    _require_simulator()
    load_ops()
    _load_torch_library("_metalsim")


def load_sim() -> None:
    """Load ``_sim``, the simulator's own Python module (NumPy, no torch).

    Raises:
        DeviceError: no module built for this Python is found, or this system has no
            simulator.
    """
    _require_simulator()
    name = f"{__package__}._sim"
    if name in sys.modules:
        return
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    candidates = [library_dir() / f"_sim{suffix}" for suffix in suffixes]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DeviceError(_missing("_sim" + suffixes[0]))
    _import_file(name, path)
    _loaded["_sim"] = path


def check_torch_version(built_for: str, running: str) -> None:
    """Refuse a library built for another PyTorch minor version.

    PyTorch's C++ interface changes from minor to minor; a library of another
    one may load and then call the wrong function.

    Raises:
        DeviceError: the first two numbers differ; names both versions.
    """
    if built_for.split(".")[:2] != running.split(".")[:2]:
        raise DeviceError(
            f"[orchard_ops] the compiled library was built for PyTorch {built_for}, "
            f"but PyTorch {running} is running; install the orchard-ops built for it, "
            "or reinstall from source with --no-build-isolation"
        )


def _require_simulator() -> None:
    if not has_simulator():
        raise DeviceError(
            "[sim] expected Linux, which the simulator needs, got macOS; "
            "use the GPU here (device 'mps'), or a Linux machine for the simulator"
        )


def _load_torch_library(stem: str) -> None:
    if stem in _loaded:
        return
    path = library_dir() / f"{stem}.so"
    if not path.is_file():
        raise DeviceError(_missing(path.name))
    built_for = _build_info().get("TORCH_VERSION")
    if built_for:
        check_torch_version(built_for, torch.__version__)
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise DeviceError(f"[orchard_ops] cannot load {path}: {error}") from error
    _loaded[stem] = path


def _missing(name: str) -> str:
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
