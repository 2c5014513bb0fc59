"""Decoding with a cache on CPU tensors: the composite, over copies of the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .._arguments import Arguments
from .._arguments.kvcache import NAME, Cache, Options
from .run import attend, check

__all__ = ["attend_on_cpu", "check_on_cpu"]


def check_on_cpu(q: Tensor, cache: Cache, options: Options) -> None:
    """Check what depends on the shapes of q, the caches and the slopes."""

    def entries(store: Tensor) -> Tensor:
        if cache.table is not None or cache.rows is not None:  # its first size is free
            store = store.new_empty(()).expand(q.size(0), *store.shape[1:])
        return store.transpose(1, 2)

    keys, values = entries(cache.k), entries(cache.v)
    check(NAME, _arguments(q, keys, values, options, options.alibi_slopes))


def attend_on_cpu(q: Tensor, cache: Cache, options: Options) -> tuple[Tensor, Tensor]:
    """Attend one batch entry after the other; what is to be checked has been."""
    out = q.new_empty(*q.shape[:3], cache.v.size(3))
    lse = q.new_empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32)
    for index, length in enumerate(cache.counts or []):
        slopes = options.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index]
        keys, values = _keys_of(cache, index, length)
        entry = _arguments(q[index : index + 1], keys, values, options, slopes)
        out_entry, lse_entry = attend(NAME, entry)
        out[index] = out_entry[0].transpose(0, 1)
        lse[index] = lse_entry[0]
    return out, lse


def _keys_of(cache: Cache, index: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values of one batch entry, ``[1, heads_kv, length, dim]``."""
    start = 0 if cache.left_pads is None else int(cache.left_pads[index])
    row = index if cache.rows is None else int(cache.rows[index])

    def gather(store: Tensor) -> Tensor:
        if cache.table is None:
            keys = store[row]
        else:  # Of pages past the length the table may say anything.
            used = -(-length // store.size(1))
            keys = store[cache.table[index, :used].long()].flatten(0, 1)
        return keys[start:length].transpose(0, 1).unsqueeze(0)

    return gather(cache.k), gather(cache.v)


def _arguments(
    q: Tensor, k: Tensor, v: Tensor, options: Options, slopes: Tensor | None
) -> Arguments:
    return Arguments(
        q.transpose(1, 2),
        k,
        v,
        scale=options.scale,
        is_bottom_right=True,
        window_left=options.window_left,
        window_right=options.window_right,
        softcap=options.softcap,
        alibi_slopes=slopes,
        sinks=options.sinks,
        return_lse=True,
    )
