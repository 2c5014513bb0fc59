"""The public attention function for decoding with a cache of keys and values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._attention import flash_attention
from ._checks import check_softcap, check_tensors, window_sides
from ._errors import translate
from ._kvcache_checks import check_step, lengths_of, numbers_of, rotary_table
from ._rotary import rotate
from ._run import require_ops

__all__ = ["flash_attention_with_kvcache"]

_NAME = "flash_attention_with_kvcache"


class _Cache(NamedTuple):
    """Where the keys of each batch entry lie; small tensors are int32 beside k."""

    k: Tensor
    v: Tensor
    seqlens: Tensor
    table: Tensor | None
    rows: Tensor | None
    left_pads: Tensor | None


class _Options(NamedTuple):
    """What shapes the scores, as flash_attention's arguments of these names."""

    scale: float
    is_causal: bool
    window: tuple[int, int] | None
    softcap: float
    alibi_slopes: Tensor | None
    num_splits: int


def flash_attention_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    cache_seqlens: Tensor | int,
    block_table: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    rotary_interleaved: bool = True,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend to a cache of keys and values, after adding new ones to it in place.

    Equals, for batch entry ``b`` with ``n = cache_seqlens[b]`` plus the new keys, the
    transpose of ``flash_attention(q[b].transpose(0, 1)[None], ks, vs, ...)``, where
    ``ks`` and ``vs`` are the first n keys and values of its cache and the last query
    stands at the last key (``causal_alignment="bottom-right"``).  Keys are cut into
    parts that run side by side and are combined in a fixed order.  Inference only.

    Args:
        q: ``[batch, len_q, heads_q, head_dim]``; float32, float16 or bfloat16.
        k_cache: ``[batch_cache, capacity, heads_kv, head_dim]``, or with a block_table
            ``[pages, page_size, heads_kv, head_dim]``, page_size a multiple of 8.
            What lies past a sequence's length is never read.
        v_cache: as k_cache, with ``head_dim_v``.
        k: ``[batch, len_new, heads_kv, head_dim]``, written into the cache behind
            cache_seqlens before attending; None: nothing is added.
        v: as k, with head_dim_v; given exactly if k is.
        cache_seqlens: ``[batch]`` int32, keys already in the cache; or one int for all.
        block_table: ``[batch, pages_per_sequence]`` int32: which page holds keys
            ``i * page_size`` and on of a batch entry.
        rotary_cos: ``[positions, rotary_dim / 2]``: rotates k, and q, by their
            positions in the cache; without is_causal and window all queries stand at
            the first new position, as in Dao's API.
        rotary_sin: given exactly if rotary_cos is.
        rotary_interleaved: pairs are neighboring dimensions; else the two halves.
        cache_batch_idx: ``[batch]`` int32: which entry of the cache each batch entry
            uses; not with a block_table.  Entries must differ if k is given.
        cache_leftpad: ``[batch]`` int32: keys at the beginning of each cache that do
            not count; not with a block_table.
        scale: factor on the scores; 1/sqrt(head_dim) if None.
        is_causal: let query i attend to keys up to its own position only.
        window: ``(left, right)`` around the query's position, -1 is open.
        softcap: as in ``flash_attention``.
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]``.
        num_splits: parts to cut the keys into; 0 lets the shapes decide.
        return_lse: return also the natural log of the sum of exponentials.

    Returns:
        ``[batch, len_q, heads_q, head_dim_v]`` in q's dtype; with ``return_lse`` a pair
        of that and ``[batch, heads_q, len_q]`` float32.

    Raises:
        InvalidProblemError: the arguments do not fit together.
        UnsupportedError: a tensor requires a gradient.
        DeviceError: the tensors are on a device whose library is missing.
    """
    check_tensors(_NAME, q, k_cache, v_cache)
    check_step(q, k, v, (k_cache, v_cache), block_table, cache_leftpad)
    cache = _Cache(
        k_cache,
        v_cache,
        lengths_of(q, cache_seqlens),
        numbers_of("block_table", block_table, q, 2),
        numbers_of("cache_batch_idx", cache_batch_idx, q, 1),
        numbers_of("cache_leftpad", cache_leftpad, q, 1),
    )
    if rotary_cos is not None or rotary_sin is not None:
        turn = rotary_table(q, k, rotary_cos, rotary_sin)
        is_local = is_causal or window is not None
        positions = _positions(cache, q.size(1) if is_local else 1)
        q = rotate(q, *turn, positions.expand(-1, q.size(1)), rotary_interleaved)
        if k is not None:
            k = rotate(k, *turn, _positions(cache, k.size(1)), rotary_interleaved)
    if k is not None and v is not None:
        cache = _append(cache, k, v)
    options = _Options(
        1.0 / math.sqrt(max(q.size(3), 1)) if scale is None else float(scale),
        is_causal,
        window,
        check_softcap(_NAME, softcap),
        alibi_slopes,
        num_splits,
    )
    attend = _attend_on_cpu if q.device.type == "cpu" else _attend
    out, lse = attend(q, cache, options)
    return (out, lse) if return_lse else out


def _attend(q: Tensor, cache: _Cache, options: _Options) -> tuple[Tensor, Tensor]:
    require_ops(_NAME, q)
    left, right = window_sides(_NAME, options.window, options.is_causal)
    slopes = options.alibi_slopes
    try:
        out, lse = torch.ops.orchard_ops.decode(
            *(t.transpose(1, 2) for t in (q, cache.k, cache.v)),
            cache.seqlens, cache.table, cache.rows, cache.left_pads,
            None if slopes is None else slopes.float(),
            options.scale, options.softcap, left, right, options.num_splits,
        )  # fmt: skip
    except RuntimeError as error:
        raise translate(error, _NAME) from None
    return out.transpose(1, 2), lse


def _attend_on_cpu(
    q: Tensor, cache: _Cache, options: _Options
) -> tuple[Tensor, Tensor]:
    """Attend one batch entry after the other, over copies of its keys."""
    outs, lses = [], []
    for index, length in enumerate(cache.seqlens.tolist()):
        slopes = options.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index]
        out, lse = flash_attention(
            q[index : index + 1].transpose(1, 2),
            *_keys_of(cache, index, length),
            is_causal=options.is_causal,
            scale=options.scale,
            causal_alignment="bottom-right",
            window=options.window,
            softcap=options.softcap,
            alibi_slopes=slopes,
            return_lse=True,
        )
        outs.append(out.transpose(1, 2))
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses)


def _keys_of(cache: _Cache, index: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values of one batch entry, ``[1, heads_kv, length, dim]``."""
    start = 0 if cache.left_pads is None else int(cache.left_pads[index])
    row = index if cache.rows is None else int(cache.rows[index])

    def gather(store: Tensor) -> Tensor:
        if cache.table is None:
            keys = store[row]
        else:
            keys = store[cache.table[index].long()].flatten(0, 1)
        return keys[start:length].transpose(0, 1).unsqueeze(0)

    return gather(cache.k), gather(cache.v)


def _append(cache: _Cache, k: Tensor, v: Tensor) -> _Cache:
    """Write new keys and values behind those in the cache; return the longer one."""
    positions = _positions(cache, k.size(1))
    if cache.table is not None:
        page_size = cache.k.size(1)
        rows = cache.table.long().gather(1, positions // page_size)
        positions = positions % page_size
    else:
        entries = torch.arange(k.size(0), device=k.device)
        rows = (entries if cache.rows is None else cache.rows.long()).unsqueeze(1)
    for store, new in ((cache.k, k), (cache.v, v)):
        store[rows, positions] = new
    return cache._replace(seqlens=cache.seqlens + k.size(1))


def _positions(cache: _Cache, length: int) -> Tensor:
    """Return ``[batch, length]``: the first places behind each sequence."""
    steps = torch.arange(length, device=cache.seqlens.device)
    return cache.seqlens.long().unsqueeze(1) + steps
