"""Making ``import flash_attn`` find this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from .._errors import OrchardError

__all__ = ["install_as_flash_attn"]

_PACKAGE = __name__.rpartition(".")[0]
_MODULES = ("", ".bert_padding", ".flash_attn_interface")


def install_as_flash_attn(*, replace: bool = False) -> None:
    """Make ``import flash_attn`` and its two public submodules find this package.

    Only in this process, and only for imports that come after.

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
    loaded = [name for name in sys.modules if name.partition(".")[0] == "flash_attn"]
    for name in loaded:
        del sys.modules[name]
    for suffix in _MODULES:
        module = importlib.import_module(_PACKAGE + suffix)
        sys.modules["flash_attn" + suffix] = module


def _find() -> str:
    """Return where a real ``flash_attn`` is, or an empty string."""
    if "flash_attn" in sys.modules:
        return repr(sys.modules["flash_attn"])
    spec = importlib.util.find_spec("flash_attn")
    return "" if spec is None else str(spec.origin)
