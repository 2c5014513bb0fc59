"""The one way from checked arguments to the operators."""

from __future__ import annotations

from typing import Any, Callable

from torch import Tensor

from .. import _native
from .._arguments import Arguments
from .._errors import translate
from .._tracing import is_compiling, is_recorded

__all__ = ["attend", "reason_against"]


def attend(name: str, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` of arguments in the operator's form.

    Args:
        name: the public function, for errors.
        arguments: lse may be empty unless they ask for it.
    """
    forward = _operator(name, "forward")
    try:
        out, lse, _ = forward(*arguments)
    except RuntimeError as error:
        raise translate(error, name) from None
    return out, lse


def reason_against(name: str, arguments: Arguments) -> str:
    """Return why ``attend`` would refuse the arguments, or an empty string."""
    reason = _tagged_reason(name, arguments)
    return str(translate(RuntimeError(reason))) if reason else ""


def _tagged_reason(name: str, arguments: Arguments) -> str:
    """Return the text of C++, which begins with the error's class."""
    if not is_recorded(arguments.q):
        return str(_operator(name, "supports")(*arguments))
    # Nothing that records operators takes one that returns a string.
    if not _operator(name, "reason_size")(*arguments).numel():
        return ""
    return (
        "[InvalidProblemError] [supports] expected arguments of an attention problem; "
        "call without a compiler or tracer to see what is wrong"
    )


def _operator(name: str, operator: str) -> Callable[..., Any]:
    """Return an operator; a compiler must see the whole of it."""
    if is_compiling():
        overload: Callable[..., Any] = getattr(_native.ops, operator).default
        return overload
    _native.require_loaded(name)
    return _native.operator(operator)
