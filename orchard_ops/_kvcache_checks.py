"""Checks of the arguments of ``flash_attention_with_kvcache``."""

from __future__ import annotations

import torch
from torch import Tensor

from ._errors import InvalidProblemError, UnsupportedError

__all__ = ["check_step", "lengths_of", "numbers_of", "rotary_table"]

_NAME = "flash_attention_with_kvcache"


def lengths_of(q: Tensor, cache_seqlens: Tensor | int) -> Tensor:
    """Return the keys in each cache as int32 beside q."""
    if isinstance(cache_seqlens, int):
        return torch.full((q.size(0),), cache_seqlens, dtype=torch.int32).to(q.device)
    lengths = numbers_of("cache_seqlens", cache_seqlens, q, 1)
    assert lengths is not None
    return lengths


def numbers_of(label: str, tensor: Tensor | None, q: Tensor, dim: int) -> Tensor | None:
    """Return an integer tensor of one row a batch entry as int32."""
    if tensor is None:
        return None
    is_whole = tensor.dtype in (torch.int32, torch.int64)
    is_sized = tensor.dim() == dim and tensor.size(0) == q.size(0)
    if tensor.device == q.device and is_whole and is_sized:
        return tensor.to(torch.int32)
    raise InvalidProblemError(
        f"[{_NAME}] expected {label} to be int32 with {dim} dimensions, the first "
        f"{q.size(0)} as q's batch, on {q.device}, got {tensor.dtype} of shape "
        f"{list(tensor.shape)} on {tensor.device}"
    )


def check_step(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    stores: tuple[Tensor, Tensor],
    block_table: Tensor | None,
    cache_leftpad: Tensor | None,
) -> None:
    """Check ranks, the new keys and values, and that no gradient is wanted."""
    if q.dim() != 4:
        raise InvalidProblemError(
            f"[{_NAME}] expected q of 4 dimensions [batch, len_q, heads_q, head_dim], "
            f"got shape {list(q.shape)}"
        )
    if (k is None) != (v is None):
        raise InvalidProblemError(
            f"[{_NAME}] expected k and v together, got only one of them"
        )
    given = [t for t in (q, k, v, *stores) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise UnsupportedError(
            f"[{_NAME}] expected tensors without gradients, got one that requires a "
            "gradient; call it under torch.no_grad(), or train with flash_attention"
        )
    for label, new, store in (("k", k, stores[0]), ("v", v, stores[1])):
        if new is None:
            continue
        want = [q.size(0), new.size(1), *store.shape[2:]]
        is_alike = new.dtype == store.dtype and new.device == store.device
        if list(new.shape) != want or not is_alike:
            raise InvalidProblemError(
                f"[{_NAME}] expected {label} of shape [{q.size(0)}, len_new, "
                f"{store.size(2)}, {store.size(3)}] in the cache's {store.dtype} on "
                f"{store.device}, got {list(new.shape)} in {new.dtype} on {new.device}"
            )
    if block_table is not None and cache_leftpad is not None:
        raise UnsupportedError(
            f"[{_NAME}] expected cache_leftpad without block_table, got both; leave "
            "the padding out of the pages"
        )


def rotary_table(
    q: Tensor, k: Tensor | None, cos: Tensor | None, sin: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return cos and sin if they are a table for q's head size."""
    is_pair = cos is not None and sin is not None and cos.shape == sin.shape
    if k is None or cos is None or sin is None or not is_pair:
        raise InvalidProblemError(
            f"[{_NAME}] expected rotary_cos and rotary_sin of one shape together with "
            "new k and v; rotate the queries yourself if there are no new keys"
        )
    if cos.dim() != 2 or 2 * cos.size(1) > q.size(3):
        raise InvalidProblemError(
            f"[{_NAME}] expected rotary_cos of shape [positions, at most "
            f"{q.size(3) // 2}], got {list(cos.shape)}"
        )
    return cos, sin
