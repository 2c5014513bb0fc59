"""Steps of generation, one query each, through the entry for caches.

It cuts the keys into splits that run side by side, and reads the keys once for all
query heads that share them; the dense entry has one threadgroup for a query head.
"""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import Any, Callable

import torch
from torch import Tensor

from .._autocast import is_any_region
from .._functions.kvcache import flash_attention_with_kvcache
from .._tracing import is_compiling, is_recorded

__all__ = ["step", "with_span"]

# From so many keys on there is more than one split (attention::decode_splits).
LEAST_KEYS = 128
_SPAN = "orchard_span"


def with_span(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    """Let one of transformers' mask functions note which keys a step's mask shows.

    A static cache is as long as it may become, and a mask says how far it is filled.
    """

    @wraps(make_mask)
    def make(*arguments: Any, **options: Any) -> Any:
        mask = make_mask(*arguments, **options)
        if isinstance(mask, Tensor) and _is_of_step(mask):
            setattr(mask, _SPAN, _span(mask[:, 0, 0]))
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
    lie side by side.
    """
    if query.size(2) != 1 or key.size(2) < LEAST_KEYS or query.device.type == "cpu":
        return None
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return None
    if is_any_region() or is_compiling() or is_recorded(query):
        return None
    pads = None
    if mask is None:
        ends = _lengths(query.size(0), key.size(2), query.device)
    else:
        span = getattr(mask, _SPAN, None)
        if span is None or mask.size(0) != query.size(0):
            return None
        pads, ends = span
    out = flash_attention_with_kvcache(
        *(tensor.transpose(1, 2) for tensor in (query, key, value)),
        cache_seqlens=ends,
        cache_leftpad=pads,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
    )
    assert isinstance(out, Tensor)
    return out


def _is_of_step(mask: Tensor) -> bool:
    if mask.dtype != torch.bool or mask.dim() != 4 or mask.device.type == "cpu":
        return False
    if mask.size(1) != 1 or mask.size(2) != 1 or mask.size(3) < LEAST_KEYS:
        return False
    return not (torch.is_grad_enabled() or is_compiling() or is_recorded(mask))


def _span(keep: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return where the True part of each row begins and ends, None if one has several.

    Waits for the device, once for each step of the model.
    """
    begins = keep.clone()
    begins[:, 1:] &= ~keep[:, :-1]
    if bool((begins.sum(-1) > 1).any()):
        return None
    places = torch.arange(keep.size(1), device=keep.device, dtype=torch.int32)
    first = (begins * places).sum(-1, dtype=torch.int32)
    return first, first + keep.sum(-1, dtype=torch.int32)


@lru_cache(maxsize=4)
def _lengths(batch: int, length: int, device: torch.device) -> Tensor:
    """Return one tensor for all layers of a step."""
    return torch.full((batch,), length, dtype=torch.int32, device=device)
