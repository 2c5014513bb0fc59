"""``F.scaled_dot_product_attention`` through the kernels, where they mean the same.

>>> import torch.nn.functional as F
>>> import orchard_ops
>>> with orchard_ops.sdpa.enabled():
...     out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # the kernels
>>> orchard_ops.sdpa.explain(q, k, v, is_causal=True)
Decision(is_routed=True, reason='', note='')

A call goes on to PyTorch's own function only for a reason that `explain` states and
`fallbacks` counts.  Of the kernels' exceptions only those are such a reason that come
before anything was computed: a kernel, or the GPU, is not what it should be.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Literal, cast

from torch import Tensor
from torch.jit import _builtins as script_builtins
from torch.nn import functional

from ._errors import InvalidProblemError, OrchardError
from ._sdpa_call import (
    HAS_GQA,
    Call,
    attend,
    attend_plainly,
    call_of,
    causal_bias_class,
    is_causal_bias,
    is_served,
    note_of,
    reason_against,
)
from ._tracing import is_compiling
from .distributed import _context

__all__ = [
    "Decision",
    "disable",
    "enable",
    "enabled",
    "explain",
    "fallbacks",
    "is_enabled",
    "reset_fallbacks",
]

Preference = Literal["orchard", "faster"]
_PREFERENCES = ("orchard", "faster")
_NAME = "scaled_dot_product_attention"
# PyTorch's own function, found before anything could replace it.
_original: Callable[..., Tensor] = functional.scaled_dot_product_attention
_prefers_faster = False  # as enable() was told
_is_original_known = False  # from a call of enable() until one of disable()
_blocks = 0  # of enabled(), in all threads
_was_enabled = False  # before the first of them
_fallbacks: Counter[str] = Counter()
_lock = threading.RLock()
_taught: list[type] = []  # causal biases that know our function


@dataclass(frozen=True)
class Decision:
    """Whether a call goes to the kernels, if it does not, why, and if so, how.

    The note tells of arguments that PyTorch would refuse and the kernels take: a mask
    together with is_causal, or of another floating-point dtype than the query.
    """

    is_routed: bool
    reason: str
    note: str = ""


def enable(prefer: Preference = "orchard") -> None:
    """Make ``F.scaled_dot_product_attention`` use the kernels where they can serve.

    Replaces the attribute of ``torch.nn.functional``, so it reaches what looks the
    function up there when it runs (``nn.MultiheadAttention``, transformers' "sdpa"),
    and not who imported the function by name before.

    Args:
        prefer: ``orchard``: the kernels wherever they can serve. ``faster``: PyTorch's
            own forward for calls that need no gradient and are of a class for which
            `orchard_ops.tune` has measured it to be faster on this device.

    Raises:
        InvalidProblemError: prefer is neither.
        OrchardError: somebody else has replaced the function since an earlier
            ``enable``: what is there now may call ours, which would call it.
    """
    global _original, _is_original_known, _prefers_faster
    if prefer not in _PREFERENCES:
        raise InvalidProblemError(
            f"[sdpa.enable] expected prefer to be {' or '.join(_PREFERENCES)}, got "
            f"{prefer!r}"
        )
    with _lock:
        current = functional.scaled_dot_product_attention
        if _is_original_known and current not in (_original, _routed):
            raise _replaced("enable", current)
        _prefers_faster = prefer == "faster"
        if is_enabled():
            return
        _original, _is_original_known = current, True
        _tell_script_compiler()
        _tell_causal_biases()
        # mypy takes the attribute for a function that nobody may replace.
        setattr(functional, _NAME, _routed)


def disable() -> None:
    """Put back what was there before ``enable``.

    Raises:
        OrchardError: somebody else has replaced the function since.
    """
    global _is_original_known, _prefers_faster
    with _lock:
        _prefers_faster = False
        current = functional.scaled_dot_product_attention
        if is_enabled():
            setattr(functional, _NAME, _original)
        elif current is not _original:
            raise _replaced("disable", current)
        _is_original_known = False


def _tell_script_compiler() -> None:
    """Let torch.jit.script see in our function what it sees in PyTorch's."""
    find: Callable[..., Any] = script_builtins._find_builtin
    register: Callable[..., Any] = script_builtins._register_builtin
    operator = find(_original)
    if operator is not None:
        register(_routed, operator)


def _tell_causal_biases() -> None:
    """Let a causal bias know PyTorch's function where code imported it by name.

    It compares what it is called by with what is in ``torch.nn.functional``, and what
    it does not know gets memory that nobody wrote for a mask.
    """
    bias = causal_bias_class()
    if bias is None or bias in _taught:
        return
    theirs = bias.__torch_function__.__func__

    def answer(
        cls: type, function: object, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is _original:
            function = functional.scaled_dot_product_attention
        return theirs(cls, function, types, args, kwargs)

    bias.__torch_function__ = classmethod(answer)
    _taught.append(bias)


def _replaced(name: str, current: object) -> OrchardError:
    return OrchardError(
        f"[sdpa.{name}] expected F.scaled_dot_product_attention to be the one that "
        f"enable() put there, got {current!r}; undo that replacement first"
    )


@contextmanager
def enabled(prefer: Preference = "orchard") -> Iterator[None]:
    """Enable inside a ``with`` block, and put back what was there before.

    Blocks may overlap, in one thread or in several: the function is one for all
    threads, and is routed until the last block ends.

    Args:
        prefer: as ``enable`` takes it.
    """
    global _blocks, _was_enabled
    with _lock:
        before: Preference = "faster" if _prefers_faster else "orchard"
        if _blocks == 0:
            _was_enabled = is_enabled()
        enable(prefer)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks or _was_enabled:
                enable(before)
            else:
                disable()


def is_enabled() -> bool:
    """Say whether ``F.scaled_dot_product_attention`` is routed."""
    return functional.scaled_dot_product_attention is _routed


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Decision:
    """Say what becomes of a call with these arguments, launching nothing.

    Args:
        query: as are all others, ``F.scaled_dot_product_attention``'s.
        key: see there.
        value: see there.
        attn_mask: see there.
        dropout_p: see there.
        is_causal: see there.
        scale: see there.
        enable_gqa: see there; asked for on any PyTorch, also before 2.5.

    Returns:
        The decision; its reason is empty where the kernels serve, its note mostly.

    Raises:
        InvalidProblemError: query, key or value is no tensor.
    """
    for label, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise InvalidProblemError(
                f"[sdpa.explain] expected {label} to be a torch.Tensor, got "
                f"{type(tensor).__name__}; convert it with torch.as_tensor"
            )
    call = Call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    reason = reason_against(call) or _measured_reason(call)
    return Decision(not reason, reason, "" if reason else note_of(call))


def fallbacks() -> dict[str, int]:
    """Return how often each reason sent a call to PyTorch's own function.

    Numbers in a reason stand for the first call only.  What ``torch.compile`` has
    traced is decided once, while it traces, and not counted.
    """
    with _lock:
        return dict(_fallbacks)


def reset_fallbacks() -> None:
    """Forget all counts."""
    with _lock:
        _fallbacks.clear()


def _routed(*arguments: Any, **options: Any) -> Tensor:
    """Stand in for ``F.scaled_dot_product_attention``; ``sdpa.explain`` says why."""
    if not _is_original_known:  # kept by somebody since before disable()
        return _original(*arguments, **options)
    if _taught and not is_compiling() and _here.is_left:
        return _original(*arguments, **options)
    context = _context.current
    if context is not None:
        return context.attend(*arguments, **options)
    if not HAS_GQA and "enable_gqa" in options:
        return _original(*arguments, **options)  # refuses, in its own words
    if _prefers_faster and not is_compiling():
        reason = _measured_reason_of(*arguments, **options)
        if reason:
            _count(reason)
            return _original(*arguments, **options)
    if not is_compiling():
        plain = attend_plainly(*arguments, **options)
        if plain is not None:
            return plain
    try:
        call = call_of(*arguments, **options)
    except TypeError:
        return _original(*arguments, **options)
    out = attend(call)
    if not isinstance(out, str):
        return out
    if not is_compiling():
        _count(out)
    if is_causal_bias(call.attn_mask):
        return _by_causal_bias(call.attn_mask, arguments, options)
    return _original(*arguments, **options)


def _measured_reason_of(*arguments: Any, **options: Any) -> str:
    try:
        return _measured_reason(call_of(*arguments, **options))
    except TypeError:  # PyTorch's function says what is wrong
        return ""


def _measured_reason(call: Call) -> str:
    """Say that PyTorch's own forward was faster, if that was asked for and is so."""
    is_plain = call.attn_mask is None and not call.dropout_p and call.scale is None
    tensors = (call.query, call.key, call.value)
    if not (_prefers_faster and is_plain and is_served(call.query.device)):
        return ""
    if any(type(tensor) is not Tensor for tensor in tensors):
        return ""
    # Only who prefers it waits for these to be imported.
    from ._tune.routes import route_of
    from ._tune.store import routes_on

    route = route_of(*tensors, call.is_causal)
    if route is None or not routes_on(call.query).get(route, False):
        return ""
    return f"orchard-ops tune measured PyTorch's own forward to be faster: {route}"


class _Here(threading.local):
    """What one thread is doing."""

    is_left = False  # a call has been left to PyTorch, with the calls that it makes


_here = _Here()


def _by_causal_bias(
    bias: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Tensor:
    """Let the bias take the call apart, as PyTorch's function would let it.

    It wants to be called by the function in ``torch.nn.functional``, which is ours, and
    calls that again without itself.
    """
    if is_compiling():
        return cast(Tensor, bias._dispatch(*arguments, **options))
    _tell_causal_biases()  # if this is the first
    _here.is_left = True
    try:
        return cast(Tensor, bias._dispatch(*arguments, **options))
    finally:
        _here.is_left = False


def _count(reason: str) -> None:
    rule = reason.split(", got ")[0]  # so that the lengths of a run make one entry
    with _lock:
        _fallbacks[rule] += 1
