"""``F.scaled_dot_product_attention`` through the kernels, where they mean the same.

>>> import torch.nn.functional as F
>>> import orchard_ops
>>> with orchard_ops.sdpa.enabled():
...     out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # the kernels
>>> orchard_ops.sdpa.explain(q, k, v, is_causal=True)
Decision(is_routed=True, reason='')

A call goes on to PyTorch's own function only for a reason that `explain` states and
`fallbacks` counts.  An exception from the kernels is never caught.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from ._attention import flash_attention, supports
from ._errors import OrchardError
from ._tracing import is_compiling, is_transformed

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

_NAME = "scaled_dot_product_attention"
# PyTorch's own function, found before anything could replace it.
_original: Callable[..., Tensor] = functional.scaled_dot_product_attention
_is_original_known = False  # from a call of enable() until one of disable()
_blocks = 0  # of enabled(), in all threads
_was_enabled = False  # before the first of them
_fallbacks: Counter[str] = Counter()
_lock = threading.RLock()


@dataclass(frozen=True)
class Decision:
    """Whether a call goes to the kernels, and if it does not, why."""

    is_routed: bool
    reason: str


def enable() -> None:
    """Make ``F.scaled_dot_product_attention`` use the kernels where they can serve.

    Replaces the attribute of ``torch.nn.functional``, so it reaches what looks the
    function up there when it runs (``nn.MultiheadAttention``, transformers' "sdpa"),
    and not who imported the function by name before.

    Raises:
        OrchardError: somebody else has replaced the function since an earlier
            ``enable``: what is there now may call ours, which would call it.
    """
    global _original, _is_original_known
    with _lock:
        current = functional.scaled_dot_product_attention
        if is_enabled():
            return
        if _is_original_known and current is not _original:
            raise _replaced("enable", current)
        _original, _is_original_known = current, True
        # mypy takes the attribute for a function that nobody may replace.
        setattr(functional, _NAME, _routed)


def disable() -> None:
    """Put back what was there before ``enable``.

    Raises:
        OrchardError: somebody else has replaced the function since.
    """
    global _is_original_known
    with _lock:
        current = functional.scaled_dot_product_attention
        if is_enabled():
            setattr(functional, _NAME, _original)
        elif current is not _original:
            raise _replaced("disable", current)
        _is_original_known = False


def _replaced(name: str, current: object) -> OrchardError:
    return OrchardError(
        f"[sdpa.{name}] expected F.scaled_dot_product_attention to be the one that "
        f"enable() put there, got {current!r}; undo that replacement first"
    )


@contextmanager
def enabled() -> Iterator[None]:
    """Enable inside a ``with`` block, and put back what was there before.

    Blocks may overlap, in one thread or in several: the function is one for all
    threads, and is routed until the last block ends.
    """
    global _blocks, _was_enabled
    with _lock:
        if _blocks == 0:
            _was_enabled = is_enabled()
        enable()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks or _was_enabled:
                enable()
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
        The decision; its reason is empty where the kernels serve.
    """
    reason = _reason(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
    )
    return Decision(not reason, reason)


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


def _routed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **grouping: Any,
) -> Tensor:
    """Stand in for ``F.scaled_dot_product_attention``; ``sdpa.explain`` says why."""
    enable_gqa = bool(grouping.get("enable_gqa", False))
    reason = _reason(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
    )
    is_known = not grouping or (_HAS_GQA and list(grouping) == ["enable_gqa"])
    if not reason and is_known:
        out = flash_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
        assert isinstance(out, Tensor)
        return out
    if not is_compiling():
        _count(reason or "an argument that this PyTorch does not have")
    return _original(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **grouping
    )


def _count(reason: str) -> None:
    rule = reason.split(", got ")[0]  # so that the lengths of a run make one entry
    with _lock:
        _fallbacks[rule] += 1


# PyTorch's function takes enable_gqa from 2.5 on; before, it says so itself.
_HAS_GQA = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 5)


def _reason(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> str:
    """Return why PyTorch's own function must serve, or an empty string."""
    if query.device.type not in ("mps", "metalsim"):
        return f"device {query.device.type}: PyTorch's own function serves it"
    if query.is_nested or key.is_nested or value.is_nested:
        return "nested tensors: flash_attention_varlen takes packed ones"
    if is_causal and attn_mask is not None:
        return "attn_mask together with is_causal=True: PyTorch's rules decide"
    if not is_compiling():
        reason = _eager_reason(query, key, value, attn_mask)
        if reason:
            return reason
    return supports(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
    )[1]


def _eager_reason(*tensors: Tensor | None) -> str:
    """Return what speaks against the kernels in this state of PyTorch."""
    # PyTorch's function has no types.
    if not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        return "flash attention is switched off by torch.nn.attention.sdpa_kernel"
    if is_transformed():
        return "inside a torch.func transform"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    if any(tensor is not None and _overrides(tensor) for tensor in tensors):
        return "a subclass of Tensor that overrides PyTorch's functions"
    return ""


def _overrides(tensor: Tensor) -> bool:
    function = type(tensor).__torch_function__
    is_plain = type(tensor) is Tensor
    return not is_plain and function is not torch._C._disabled_torch_function_impl
