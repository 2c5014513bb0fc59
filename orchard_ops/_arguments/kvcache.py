"""What of ``flash_attention_with_kvcache`` its operator cannot check.

The operator (csrc/torch/decode_op.cpp) checks shapes, dtypes, devices and options.
Here is what names and layouts need, the new keys and values, which no operator sees,
and the numbers that the host knows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import InvalidProblemError, UnsupportedError
from .._tracing import promise_range
from .checks import (
    check_flag,
    check_is_tensor,
    check_number,
    check_rank,
    check_rotary_table,
    per_head,
    slopes_of,
    whole_number,
    window_sides,
)

__all__ = [
    "NAME",
    "Cache",
    "Options",
    "cache_of",
    "check_places",
    "check_step",
    "options_of",
    "rotary_table",
]

NAME = "flash_attention_with_kvcache"
_MOST_SPLITS = 2**29  # as many as a cache may have keys


class Cache(NamedTuple):
    """Where the keys of each batch entry lie; small tensors are int32 beside k."""

    k: Tensor
    v: Tensor
    seqlens: Tensor
    counts: list[int] | None  # seqlens, or the one number in it, where the host knows
    table: Tensor | None
    rows: Tensor | None
    left_pads: Tensor | None


class Options(NamedTuple):
    """What shapes the scores, as the operators take it."""

    scale: float | None
    softcap: float
    window_left: int
    window_right: int
    alibi_slopes: Tensor | None
    sinks: Tensor | None
    num_splits: int


def check_step(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    stores: tuple[Tensor, Tensor],
    sinks: Tensor | None,
) -> None:
    """Check ranks, the new keys and values, and that no gradient is wanted."""
    layout = "batch, len"
    check_rank(NAME, layout, 4, q=q, k_cache=stores[0], v_cache=stores[1])
    if (k is None) != (v is None):
        raise InvalidProblemError(
            f"[{NAME}] expected k and v together, got only one of them; pass both, or "
            "neither to add nothing"
        )
    given = [q, *stores]
    if k is not None and v is not None:
        _check_new(q, k, v, stores)
        given += [k, v]
    if isinstance(sinks, Tensor):
        given.append(sinks)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise UnsupportedError(
            f"[{NAME}] expected tensors without gradients, got one that requires a "
            "gradient; call it under torch.no_grad(), or train with flash_attention"
        )


def _check_new(q: Tensor, k: Tensor, v: Tensor, stores: tuple[Tensor, Tensor]) -> None:
    check_rank(NAME, "batch, len", 4, k=k, v=v)
    for label, new, store in (("k", k, stores[0]), ("v", v, stores[1])):
        want = [q.size(0), k.size(1), *store.shape[2:]]
        is_alike = new.dtype == store.dtype and new.device == store.device
        if list(new.shape) != want or not is_alike:
            raise InvalidProblemError(
                f"[{NAME}] expected {label} of shape [batch, len_new, heads_kv, "
                f"head_dim] = {want} in the cache's {store.dtype} on "
                f"{store.device}, got {list(new.shape)} in {new.dtype} on "
                f"{new.device}; cast, move or slice it"
            )


def cache_of(
    q: Tensor,
    stores: tuple[Tensor, Tensor],
    len_new: int,
    cache_seqlens: Tensor | int,
    block_table: Tensor | None,
    cache_batch_idx: Tensor | None,
    cache_leftpad: Tensor | None,
) -> Cache:
    """Return the cache once the host's numbers of where its keys lie are checked.

    Numbers that only a device knows are not read: that would wait for it.
    """
    table = _int32_of("block_table", block_table)
    rows = _int32_of("cache_batch_idx", cache_batch_idx)
    left_pads = _int32_of("cache_leftpad", cache_leftpad)
    capacity = stores[0].size(1)
    if table is not None:
        capacity *= table.size(-1) if table.dim() else 1
    seqlens, counts = _lengths_of(q, cache_seqlens, capacity, len_new)
    return Cache(*stores, seqlens, counts, table, rows, left_pads)


def check_places(cache: Cache, len_new: int) -> None:
    """Check entries, padding and used pages, which CPU tensors show.

    Args:
        cache: what the operator has found nothing wrong with.
        len_new: how many keys will be added.
    """
    entries, advice = cache.k.size(0), "name one that is there"
    if cache.rows is not None:
        why = f"k_cache having {entries} entries"
        _check_range("cache_batch_idx", cache.rows.tolist(), entries - 1, why, advice)
    size = cache.k.size(1)
    if cache.left_pads is not None:
        why = f"the cache having room for {size} keys"
        _check_range("cache_leftpad", cache.left_pads.tolist(), size, why, advice)
    if cache.table is not None:
        lengths = [count + len_new for count in cache.counts or []]
        used = [
            page
            for pages, length in zip(cache.table.tolist(), lengths)
            for page in pages[: -(-length // size)]
        ]
        why = f"k_cache having {entries} pages"
        _check_range("block_table", used, entries - 1, why, advice)


def options_of(
    scale: float | None,
    is_causal: bool,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    num_splits: int,
) -> Options:
    """Return the options as numbers and flags of the operator."""
    splits = whole_number(NAME, "num_splits", num_splits, "0 lets the shapes decide")
    left, right = window_sides(NAME, window)
    return Options(
        None if scale is None else check_number(NAME, "scale", scale),
        check_number(NAME, "softcap", softcap),
        left,
        0 if check_flag(NAME, "is_causal", is_causal) else right,
        slopes_of(NAME, alibi_slopes),
        per_head(NAME, "sinks", sinks),
        max(-1, min(splits, _MOST_SPLITS)),
    )


def rotary_table(
    q: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    counts: list[int] | None,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Return cos and sin if they are a table for q's head size and the positions.

    Args:
        q: the queries.
        cos: ``[positions, rotary_dim / 2]``.
        sin: as cos.
        counts: those of the cache.
        steps: how many positions behind them are rotated; 0 without new keys.
    """
    if not isinstance(cos, Tensor) or not isinstance(sin, Tensor) or not steps:
        raise InvalidProblemError(
            f"[{NAME}] expected tensors rotary_cos and rotary_sin together with new k "
            f"and v, got {type(cos).__name__} and {type(sin).__name__}; rotate the "
            "queries yourself if there are no new keys"
        )
    check_rotary_table(NAME, q, rotary_cos=cos, rotary_sin=sin)
    why = f"rotary_cos having {cos.size(0)} rows and {steps} positions being rotated"
    _check_range("cache_seqlens", counts, cos.size(0) - steps, why, "add rows to it")
    return cos.detach(), sin.detach()


def _lengths_of(
    q: Tensor, cache_seqlens: object, capacity: int, len_new: int
) -> tuple[Tensor, list[int] | None]:
    """Return the keys in each cache, and the same where the host knows them."""
    is_on_cpu = q.device.type == "cpu"
    counts: list[int] | None = None
    lengths: Tensor | None = None
    if isinstance(cache_seqlens, Tensor):
        check_is_tensor(NAME, "cache_seqlens", cache_seqlens)
        if cache_seqlens.dim() == 0:
            cache_seqlens = cache_seqlens.expand(q.size(0))
        lengths = _int32_of("cache_seqlens", cache_seqlens)
        # The operator says which dtypes count keys.
        is_real = not cache_seqlens.is_complex()
        if is_on_cpu and cache_seqlens.device == q.device and is_real:
            counts = cache_seqlens.flatten().tolist()
    else:
        advice = "several lengths are an int32 tensor of shape [batch] on q's device"
        count = whole_number(NAME, "cache_seqlens", cache_seqlens, advice)
        counts = [count] * (q.size(0) if is_on_cpu else 1)
    why = f"the cache having room for {capacity} keys and {len_new} being added"
    advice = "make the cache longer, or drop keys"
    _check_range("cache_seqlens", counts, capacity - len_new, why, advice)
    if lengths is None:
        lengths = torch.full((q.size(0),), count, dtype=torch.int32).to(q.device)
    return lengths, counts


def _check_range(
    label: str, numbers: list[int] | None, last: int, why: str, advice: str
) -> None:
    """Check numbers that the host knows; if it doesn't, that any could be right."""
    for number in numbers or []:
        promise_range(number, 0, last)
    wrong = [n for n in numbers or [] if not 0 <= n <= last]
    if wrong or (last < 0 and numbers is None):
        raise InvalidProblemError(
            f"[{NAME}] expected {label} from 0 to {last}, {why}, got "
            f"{wrong[0] if wrong else 'a tensor'}; {advice}"
        )


def _int32_of(label: str, tensor: Tensor | None) -> Tensor | None:
    """Return a tensor of whole numbers as the operator takes it, others as they are."""
    if tensor is None:
        return None
    check_is_tensor(NAME, label, tensor)
    return tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor
