"""The public attention function for decoding with a cache of keys and values."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from .. import _native
from .._arguments.checks import check_flag
from .._arguments.kvcache import (
    NAME,
    Cache,
    Options,
    cache_of,
    check_places,
    check_step,
    options_of,
    rotary_table,
)
from .._errors import translate
from .rotary import rotate

__all__ = ["flash_attention_with_kvcache"]


@overload
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
    sinks: Tensor | None = None,
    num_splits: int = 0,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
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
    sinks: Tensor | None = None,
    num_splits: int = 0,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
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
    sinks: Tensor | None = None,
    num_splits: int = 0,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


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
    sinks: Tensor | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend to a cache of keys and values, after adding new ones to it in place.

    Equals, for batch entry ``b`` with ``n = cache_seqlens[b]`` plus the new keys, the
    transpose of ``flash_attention(q[b].transpose(0, 1)[None], ks, vs, ...)``, where
    ``ks`` and ``vs`` are the first n keys and values of its cache and the last query
    stands at the last key (``causal_alignment="bottom-right"``).  Keys are cut into
    parts that run side by side and are combined in a fixed order.  Inference only, and
    autocast casts nothing.  What is refused is refused before the cache is written.

    Numbers that the host knows are checked: a cache_seqlens that is an int, and all
    CPU tensors.  In tensors on a device they are not read, because that would wait for
    it.  There the nearest number that is possible takes the place of one that is not:
    a length beyond the capacity is the capacity, a negative one 0, an entry or page
    beyond the last is the last, a position beyond the rotary table its last row.
    Nothing outside the tensors is read, and a new key that has no place in the cache is
    not written.

    Args:
        q: ``[batch, len_q, heads_q, head_dim]``; float32, float16 or bfloat16.
        k_cache: ``[batch_cache, capacity, heads_kv, head_dim]``, or with a block_table
            ``[pages, page_size, heads_kv, head_dim]``, page_size a multiple of 8.
            What lies past a sequence's length is never read.  Without block_table and
            cache_batch_idx batch_cache is q's batch.
        v_cache: as k_cache, with ``head_dim_v``.
        k: ``[batch, len_new, heads_kv, head_dim]``, written into the cache behind
            cache_seqlens before attending; None: nothing is added.
        v: as k, with head_dim_v; given exactly if k is.
        cache_seqlens: ``[batch]`` int32, keys already in the cache; or one int for all.
        block_table: ``[batch, pages_per_sequence]`` int32: which page holds keys
            ``i * page_size`` and on of a batch entry.  Anything past its length; not
            with cache_batch_idx or cache_leftpad.
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
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]``, float32 or cast to it.
        sinks: ``[heads_q]``, as in ``flash_attention``.
        num_splits: parts to cut the keys into, at most one for each 8; 0 lets the
            shapes decide.
        return_lse: return also the natural log of the sum of exponentials.

    Returns:
        ``[batch, len_q, heads_q, head_dim_v]`` in q's dtype; with ``return_lse`` a pair
        of that and ``[batch, heads_q, len_q]`` float32.

    Raises:
        InvalidProblemError: the arguments do not fit together.
        UnsupportedError: a tensor requires a gradient.
        DeviceError: the tensors are on a device whose library is missing.
    """
    check_step(q, k, v, (k_cache, v_cache), sinks)
    len_new = 0 if k is None else k.size(1)
    cache = cache_of(
        q, (k_cache, v_cache), len_new,
        cache_seqlens, block_table, cache_batch_idx, cache_leftpad,
    )  # fmt: skip
    options = options_of(
        scale, is_causal, window, softcap, alibi_slopes, sinks, num_splits
    )
    turn: tuple[Tensor, Tensor] | None = None
    steps = q.size(1) if is_causal or window is not None else 1
    if rotary_cos is not None or rotary_sin is not None:
        most = 0 if k is None else max(len_new, steps, 1)
        turn = rotary_table(q, rotary_cos, rotary_sin, cache.counts, most)
    is_interleaved = check_flag(NAME, "rotary_interleaved", rotary_interleaved)
    asks_lse = check_flag(NAME, "return_lse", return_lse)
    is_on_cpu = q.device.type == "cpu"
    if is_on_cpu or k is not None:
        _attend(q[:, :0], cache, options)  # Computes nothing, but checks the rest.
    if is_on_cpu:
        check_places(cache, len_new)
    # Nothing has been written so far, and nothing is refused from here on.
    if k is not None and v is not None:
        if turn is not None:
            places = _positions(cache, steps).expand(-1, q.size(1))
            q = rotate(q, *turn, places, is_interleaved)
            k = rotate(k, *turn, _positions(cache, len_new), is_interleaved)
        cache = _append(cache, k, v)
    out, lse = _attend(q, cache, options)
    return (out, lse) if asks_lse else out


def _attend(q: Tensor, cache: Cache, options: Options) -> tuple[Tensor, Tensor]:
    _native.require_loaded(NAME)
    try:
        out, lse = _native.ops.decode(
            q.transpose(1, 2), cache.k.transpose(1, 2), cache.v.transpose(1, 2),
            cache.seqlens, cache.table, cache.rows, cache.left_pads,
            options.alibi_slopes, options.sinks, options.scale, options.softcap,
            options.window_left, options.window_right, options.num_splits,
        )  # fmt: skip
    except RuntimeError as error:
        raise translate(error, NAME) from None
    return out.transpose(1, 2), lse


def _append(cache: Cache, k: Tensor, v: Tensor) -> Cache:
    """Write new keys and values behind those in the cache; return the longer one."""
    places = _places(cache, k.size(1))
    is_known = cache.counts is not None and cache.table is None and cache.rows is None
    is_sure = k.device.type == "cpu" or is_known or not places[0].numel()
    for store, new in ((cache.k, k), (cache.v, v)):
        if is_sure:
            store[places] = new
        else:
            _write_inside(store, places, new)
    counts = cache.counts and [count + k.size(1) for count in cache.counts]
    seqlens = cache.seqlens + k.size(1)
    # Not _replace: the compiler of PyTorch 2.4 does not know it.
    return Cache(
        *(cache.k, cache.v, seqlens, counts),
        *(cache.table, cache.rows, cache.left_pads),
    )


def _places(cache: Cache, length: int) -> tuple[Tensor, Tensor]:
    """Return which entries and rows, ``[batch, length]``, the next keys belong into.

    One of both is outside the cache where there is no room.
    """
    positions = _positions(cache, length)
    if cache.table is None:
        entries = torch.arange(positions.size(0), device=positions.device)
        rows = entries if cache.rows is None else cache.rows.long()
        return rows.unsqueeze(1).expand_as(positions), positions
    page_size, width = cache.k.size(1), cache.table.size(1)
    numbers = positions.div(page_size, rounding_mode="floor")
    pages = cache.table.long().gather(1, numbers.clamp(0, width - 1))
    is_there = (numbers >= 0) & (numbers < width)
    return pages.masked_fill(~is_there, -1), positions % page_size


def _write_inside(store: Tensor, places: tuple[Tensor, Tensor], new: Tensor) -> None:
    """Write what has a place inside the store, without waiting for the device.

    What has none is written as a copy of something that has, to the same place; if
    nothing has, one place is written with what it holds.
    """
    if not store.numel():
        return
    row, position = (index.flatten() for index in places)
    is_inside = (row >= 0) & (row < store.size(0))
    is_inside = is_inside & (position >= 0) & (position < store.size(1))
    any_inside = is_inside.float().argmax()
    source = torch.arange(row.size(0), device=row.device)
    source = torch.where(is_inside, source, any_inside)
    row = row.clamp(0, store.size(0) - 1)[source]
    position = position.clamp(0, store.size(1) - 1)[source]
    given = new.flatten(0, 1)[source]
    keeps = ~is_inside[source][:, None, None]
    store[row, position] = torch.where(keeps, store[row, position], given)


def _positions(cache: Cache, length: int) -> Tensor:
    """Return ``[batch, length]``: the first places behind each sequence."""
    steps = torch.arange(length, device=cache.seqlens.device)
    return cache.seqlens.long().unsqueeze(1) + steps
