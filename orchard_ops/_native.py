"""The one place that finds and loads the compiled libraries.

They lie in the package's directory, or in the one that the environment
variable ``ORCHARD_LIBRARY_DIR`` names (development builds).  PyTorch's C++
interface changes with every minor version, so each library's name says which one
it is for: ``_C.torch2.4.so``.  A package from source holds the libraries for one
PyTorch, a published wheel those for many.  In a wheel for Linux they lie in the
folders ``abi0`` and ``abi1``, by PyTorch's ``_GLIBCXX_USE_CXX11_ABI``: everything
in one process must use the same ``std::string``.
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch

from . import _libraries
from ._errors import DeviceError, LibraryError
from ._libraries import (
    VERSION,
    has_simulator,
    library_dir,
    loaded,
    missing,
    require_simulator,
)

if TYPE_CHECKING:
    from . import _C as ops  # noqa: N811 - a library's name
    from . import _metalsim as metalsim_ops
else:  # Both are empty until their library is loaded.
    ops = torch.ops.orchard_ops
    metalsim_ops = torch.ops.orchard_metalsim

__all__ = [
    "VERSION",
    "built_libraries",
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


def loaded_libraries() -> dict[str, Path]:
    """Return name → path of the libraries that this process has loaded."""
    return dict(loaded)


def is_loaded(name: str) -> bool:
    """Say whether this process has loaded a library."""
    return name in loaded


@cache
def operator(name: str) -> Callable[..., Any]:
    """Return one of our operators, by its name or as ``name.overload``.

    Raises:
        DeviceError: the package came without them.
    """
    require_loaded(__package__)
    packet, _, variant = name.partition(".")
    overload = getattr(getattr(torch.ops.orchard_ops, packet), variant or "default")
    # The function inside, to spare each call a frame that only passes arguments on.
    function: Callable[..., Any] = getattr(overload, "_op", overload)
    return function


def require_loaded(name: str) -> None:
    """Raise DeviceError unless the operators are loaded, for a public function."""
    if not is_loaded("_C"):
        raise DeviceError(
            f"[{name}] expected the compiled operators, found no "
            f"_C.torch{_running_minor()}.so in {library_dir()}; build the package"
        )


def has_ops() -> bool:
    """Say whether there are operators, for any PyTorch: a bare source tree has none."""
    return any(built_libraries(abi) for abi in (False, True))


def built_libraries(new_strings: bool | None = None) -> dict[str, Path]:
    """Return PyTorch minor → library of operators, of all that this package holds.

    Args:
        new_strings: for which ``_GLIBCXX_USE_CXX11_ABI``; by default PyTorch's.
    """
    if new_strings is None:
        new_strings = torch._C._GLIBCXX_USE_CXX11_ABI
    folder = library_dir()
    found = {
        path.name[len("_C.torch") : -len(".so")]: path
        for place in (folder, folder / f"abi{int(new_strings)}")
        for path in place.glob("_C.torch*.so")
    }
    return dict(sorted(found.items(), key=lambda item: _numbers(item[0])))


def from_source() -> str:
    """Return the command that builds a package for the PyTorch that runs."""
    where = shlex.quote(str(Path(torch.__file__).parent.parent))
    return (
        "in the source folder of orchard-ops, "
        f"`ORCHARD_TORCH_WHEEL={where} pip install --no-deps --force-reinstall .`"
    )


def load_ops() -> None:
    """Load ``_C``, which registers ``torch.ops.orchard_ops``.

    Raises:
        LibraryError: there is none for this PyTorch, or it cannot be loaded.
    """
    if not is_loaded("_C"):
        _load_torch_library("_C")
        # What was found right with one of them says nothing about the next.
        ops.set_versions(f"PyTorch {torch.__version__}, orchard-ops {VERSION}")


def load_metalsim() -> None:
    """Load ``_metalsim``, which gives PyTorch the simulator's device.

    Raises:
        LibraryError: as ``load_ops``.
        DeviceError: this system has no simulator.
    """
    require_simulator()
    load_ops()
    _load_torch_library("_metalsim")


def load_sim() -> None:
    """Load ``_sim``, the simulator's own Python module, from beside the operators.

    Raises:
        DeviceError: no module built for this Python is found, or this system has no
            simulator.
    """
    _libraries.load_sim(
        built_libraries().get(_running_minor(), library_dir() / "_C").parent
    )


def _load_torch_library(stem: str) -> None:
    if stem in loaded:
        return
    operators = _operators()
    path = operators.with_name(operators.name.replace("_C", stem, 1))
    if not path.is_file():
        raise LibraryError(missing(path.name))
    _require_only_copy(stem, path)
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise LibraryError(
            f"[orchard_ops] cannot load {path}, which was built for another PyTorch "
            f"{_running_minor()} than this {torch.__version__} (another channel's?): "
            f"{error}; build it for this one: {from_source()}"
        ) from error
    loaded[stem] = path


def _operators() -> Path:
    """Return the library of operators for the PyTorch that runs.

    Raises:
        LibraryError: there is none; says which there are.
    """
    minor, found = _running_minor(), built_libraries()
    if minor in found:
        return found[minor]
    new_strings = torch._C._GLIBCXX_USE_CXX11_ABI
    others = built_libraries(not new_strings)
    if not found and not others:
        raise LibraryError(missing(f"_C.torch{minor}.so"))
    if minor in others:
        raise LibraryError(
            f"[orchard_ops] the compiled library for PyTorch {minor} is for a build "
            f"with _GLIBCXX_USE_CXX11_ABI={int(not new_strings)} (PyPI's), but PyTorch "
            f"{torch.__version__}, which is running, has {int(new_strings)} (conda's "
            f"has); build one for it: {from_source()}"
        )
    minors = ", ".join(sorted({*found, *others}, key=_numbers))
    raise LibraryError(
        f"[orchard_ops] this package holds compiled libraries for PyTorch {minors}, "
        f"but PyTorch {torch.__version__} is running; install one of these, or build "
        f"for it: {from_source()}"
    )


def _running_minor() -> str:
    return ".".join(torch.__version__.split(".")[:2])


def _numbers(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split(".") if part.isdigit())


def _require_only_copy(stem: str, path: Path) -> None:
    """Refuse a second copy of the package: PyTorch would end the process."""
    is_ours = str(path) in torch.ops.loaded_libraries
    if stem == "_C" and not is_ours and hasattr(torch.ops.orchard_ops, "forward"):
        raise LibraryError(
            f"[orchard_ops] expected one orchard-ops in a process, got {path} after "
            "another copy (of pip, conda or the kernels hub) had been loaded; import "
            "only one of them"
        )
