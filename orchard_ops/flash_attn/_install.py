"""Making ``import flash_attn`` find this package."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from .._errors import OrchardError

__all__ = ["install_as_flash_attn", "uninstall_as_flash_attn"]

_PACKAGE = __name__.rpartition(".")[0]
_MODULES = ("", ".bert_padding", ".flash_attn_interface", ".layers", ".layers.rotary")
_hidden: dict[str, ModuleType] = {}  # a real flash_attn's modules


class _Metadata(Distribution):
    """What an installed ``flash-attn`` of our signatures' version says of itself."""

    def read_text(self, filename: str) -> str | None:
        """Return one of the files beside a distribution, None where there is none."""
        version = f"Version: {sys.modules[_PACKAGE].__version__}\n"
        return {
            "METADATA": "Metadata-Version: 2.1\nName: flash-attn\n" + version,
            "top_level.txt": "flash_attn\n",
        }.get(filename)

    def locate_file(self, path: str | PathLike[str]) -> Any:
        """Return where a file of the distribution would lie: beside this package."""
        return Path(__file__).parents[2] / path


class _Finder(DistributionFinder):
    """Answers ``importlib.metadata`` for ``flash-attn``, and finds no modules."""

    def find_spec(self, *_: Any) -> None:
        """Leave the finding of modules to others."""

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterable[Distribution]:
        """Return ours where it, or everything, is asked for."""
        name = None if context is None else context.name
        is_ours = name is None or re.sub(r"[-_.]+", "-", name).lower() == "flash-attn"
        return [_Metadata()] if is_ours else []


_finder = _Finder()


def install_as_flash_attn(*, replace: bool = False) -> None:
    """Make ``import flash_attn`` and its submodules find this package.

    Only in this process, and only for imports that come after.  ``importlib.metadata``
    answers for ``flash-attn`` too, with ``orchard_ops.flash_attn.__version__``.

    Args:
        replace: do so even where a real ``flash_attn`` is installed or loaded.

    Raises:
        OrchardError: there is a real one, and replace is False.
    """
    ours = sys.modules[_PACKAGE]
    if sys.modules.get("flash_attn") is ours:
        return
    found = _find()
    if found and not replace:
        raise OrchardError(
            "[install_as_flash_attn] expected no flash_attn on this machine, found "
            f"{found}; use that one, or pass replace=True to hide it from this process"
        )
    _hidden.update(_take_modules())
    for suffix in _MODULES:
        module = importlib.import_module(_PACKAGE + suffix)
        sys.modules["flash_attn" + suffix] = module
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)  # before what knows a real one


def uninstall_as_flash_attn() -> None:
    """Undo `install_as_flash_attn`: a real ``flash_attn`` that it hid is back."""
    if sys.modules.get("flash_attn") is not sys.modules[_PACKAGE]:
        return
    _take_modules()
    sys.modules.update(_hidden)
    _hidden.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _take_modules() -> dict[str, ModuleType]:
    """Remove and return what is loaded under the name ``flash_attn``."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]
    return {name: sys.modules.pop(name) for name in loaded}


def _find() -> str:
    """Return where a real ``flash_attn`` is, or an empty string."""
    if "flash_attn" in sys.modules:
        return repr(sys.modules["flash_attn"])
    spec = importlib.util.find_spec("flash_attn")
    return "" if spec is None else str(spec.origin)
