"""The choice of who computes, by device."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native
from ._arguments import Arguments
from ._autocast import autocast_dtype
from ._composite import attention as composite
from ._cpu_checks import check_shapes
from ._errors import DeviceError, translate
from ._tracing import is_recorded

__all__ = ["reason_against", "require_ops", "run"]


def run(name: str, arguments: Arguments, need_lse: bool) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)``: from the operators, or for CPU tensors the composite.

    Args:
        name: the public function, for errors.
        arguments: checked arguments.
        need_lse: whether lse is wanted; else it may be empty.
    """
    if arguments.q.device.type == "cpu":
        check_shapes(name, arguments)
        if autocast_dtype("cpu") is None:
            return composite(arguments, need_lse)
        with torch.autocast("cpu", enabled=False):  # what was to be cast has been
            return composite(arguments, need_lse)
    require_ops(name, arguments.q)
    try:
        out, lse, _ = torch.ops.orchard_ops.forward.default(*arguments)
    except RuntimeError as error:
        raise translate(error, name) from None
    return out, lse


def reason_against(name: str, arguments: Arguments) -> str:
    """Return why ``run`` would refuse the arguments, or an empty string.

    Raises:
        OrchardError: the reason, where Python knows it.
    """
    # Nothing that records operators takes one that returns a string.
    if arguments.q.device.type in ("cpu", "meta") or is_recorded(arguments.q):
        check_shapes(name, arguments)
        return ""
    require_ops(name, arguments.q)
    reason = str(torch.ops.orchard_ops.supports(*arguments))
    return str(translate(RuntimeError(reason)))


def require_ops(name: str, q: Tensor) -> None:
    """Raise DeviceError unless the operators are loaded."""
    if not _native.is_loaded("_C"):
        raise DeviceError(
            f"[{name}] expected the compiled operators for a tensor on {q.device}, "
            f"found no _C.so in {_native.library_dir()}; build the package or use CPU "
            "tensors"
        )
