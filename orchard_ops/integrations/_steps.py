"""Steps of generation, one query each, through the entry for caches.

It cuts the keys into splits that run side by side, and reads the keys once for all
query heads that share them; the dense entry has one threadgroup for a query head.
"""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .._autocast import is_any_region
from .._functions.kvcache import flash_attention_with_kvcache
from .._tracing import is_compiling, is_recorded
from ._pages import Pages

__all__ = ["step", "with_span"]

# From so many keys on there is more than one split (attention::decode_splits).
LEAST_KEYS = 128
_SPAN = "orchard_span"


class _Span(NamedTuple):
    """Which keys a step's mask shows, if in each row they lie side by side."""

    begins: Tensor  # int32, [batch]
    ends: Tensor
    begin: int | None  # of all rows, None where they differ
    end: int  # of the longest row


def with_span(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    """Let one of transformers' mask functions note which keys a step's mask shows.

    A static cache is as long as it may become, and a mask says how far it is filled.
    """

    @wraps(make_mask)
    def make(*arguments: Any, **options: Any) -> Any:
        mask = make_mask(*arguments, **options)
        if not isinstance(mask, Tensor) or is_recorded(mask) or not _is_of_step(mask):
            return mask
        if mask.size(3) < LEAST_KEYS or mask.device.type == "cpu":
            return mask
        # Where no row is padded all are one row, expanded, and transformers' generate
        # would make a contiguous copy, on which the note is missing.
        mask = mask.contiguous()
        setattr(mask, _SPAN, (_version(mask), _look(mask)))
        return mask

    return make


def step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor | None:
    """Return ``[batch, 1, heads, head_dim_v]``, None where the entry does not serve.

    It serves a single query without gradients, whose mask is none or shows keys that
    lie side by side, in pages only if they begin at one place in all rows.
    """
    if query.size(2) != 1 or is_any_region() or is_compiling() or is_recorded(query):
        return None
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return None
    is_short = key.size(2) < LEAST_KEYS or query.device.type == "cpu"
    if is_short and not isinstance(key, Pages):
        return None
    span = _span_of(query, key, mask)
    if span is None or span.end > key.size(2):
        return None
    store = _store(key, value, span)
    if store is None:
        return None
    out = flash_attention_with_kvcache(
        query.transpose(1, 2),
        **store,
        cache_seqlens=span.ends,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
    )
    assert isinstance(out, Tensor)
    return out


def _store(key: Tensor, value: Tensor, span: _Span) -> dict[str, Any] | None:
    """Return where the keys lie, as the entry takes it, None if it can't."""
    if not isinstance(key, Pages) or not isinstance(value, Pages):
        pads = span.begins if span.begin != 0 else None
        return {
            "k_cache": key.transpose(1, 2),
            "v_cache": value.transpose(1, 2),
            "cache_leftpad": pads,
        }
    if span.begin is None:
        return None
    # Beside a block_table there is no cache_leftpad, but a window says the same.
    window = (span.end - 1 - span.begin, -1) if span.begin else None
    return {
        "k_cache": key.store,
        "v_cache": value.store,
        "block_table": key.table,
        "window": window,
    }


def _span_of(query: Tensor, key: Tensor, mask: Tensor | None) -> _Span | None:
    """Return which keys are seen; a mask is looked at once for all layers."""
    if mask is None:
        return _whole(query.size(0), key.size(2), query.device)
    if mask.size(0) != query.size(0) or not _is_of_step(mask):
        return None
    version = _version(mask)
    noted = getattr(mask, _SPAN, None)
    if noted is None or noted[0] != version:
        noted = version, _look(mask)
        # What someone else made may be written anew, and no inference tensor shows it.
        if version is not None:
            setattr(mask, _SPAN, noted)
    span: _Span | None = noted[1]
    return span


def _is_of_step(mask: Tensor) -> bool:
    if mask.dim() != 4 or mask.size(1) != 1 or mask.size(2) != 1:
        return False
    return not (torch.is_grad_enabled() and mask.requires_grad)


def _version(mask: Tensor) -> int | None:
    return None if mask.is_inference() else mask._version


def _look(mask: Tensor) -> _Span | None:
    """Return where the shown part of each row begins and ends, None if one has several.

    Waits for the device.
    """
    keep, is_other = _kept(mask[:, 0, 0])
    starts = keep.clone()
    starts[:, 1:] &= ~keep[:, :-1]
    places = torch.arange(keep.size(1), device=keep.device, dtype=torch.int32)
    begins = (starts * places).sum(-1, dtype=torch.int32)
    ends = begins + keep.sum(-1, dtype=torch.int32)
    parts = starts.sum(-1, dtype=torch.int32)
    found = torch.stack([parts, is_other.int(), begins, -begins, ends]).amax(1)
    most, others, last, first, end = found.tolist()
    if most > 1 or others:
        return None
    return _Span(begins, ends, last if last == -first else None, end)


def _kept(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return which keys are seen, and in which rows a mask says more than that.

    Before transformers 4.53 masks are added to the scores.
    """
    if rows.dtype == torch.bool:
        return rows, torch.zeros_like(rows[:, 0])
    keep = rows == 0
    return keep, ~(keep | (rows <= torch.finfo(rows.dtype).min)).all(-1)


@lru_cache(maxsize=4)
def _whole(batch: int, length: int, device: torch.device) -> _Span:
    """Return one span for all layers of a step."""
    ends = torch.full((batch,), length, dtype=torch.int32, device=device)
    return _Span(torch.zeros_like(ends), ends, 0, length)
