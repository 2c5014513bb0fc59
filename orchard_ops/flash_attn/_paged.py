"""Packed sequences out of a paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import InvalidProblemError

__all__ = ["gather_pages"]


def gather_pages(
    name: str, caches: tuple[Tensor, Tensor], cu_seqlens: Tensor, block_table: Tensor
) -> tuple[Tensor, Tensor]:
    """Copy each sequence's rows out of its pages, one sequence after the other.

    Args:
        name: the public function, for errors.
        caches: keys and values, ``[pages, page_size, heads, head_dim]``.
        cu_seqlens: ``[sequences + 1]`` int32, where each sequence begins and the last
            one ends; read here, so this waits for the device.
        block_table: ``[sequences, pages]`` int32.

    Returns:
        Both as ``[total, heads, head_dim]``.
    """
    page_size = caches[0].size(1)
    starts = cu_seqlens.cpu().long()
    lengths = starts.diff()
    if block_table.dim() != 2 or block_table.size(0) != lengths.size(0):
        raise InvalidProblemError(
            f"[{name}] expected block_table of shape [{lengths.size(0)}, pages], a row "
            f"for each sequence of cu_seqlens_k, got {list(block_table.shape)}"
        )
    if lengths.numel() and int(lengths.max()) > page_size * block_table.size(1):
        raise InvalidProblemError(
            f"[{name}] expected block_table to have pages for {int(lengths.max())} "
            f"keys, got {block_table.size(1)} pages of {page_size}; add pages"
        )
    sequence = torch.repeat_interleave(
        torch.arange(lengths.size(0), device="cpu"), lengths
    )
    place = torch.arange(sequence.size(0), device="cpu") - starts[sequence]
    page = block_table.cpu().long()[sequence, place // page_size]
    rows = (page * page_size + place % page_size).to(caches[0].device)
    k, v = (cache.flatten(0, 1).index_select(0, rows) for cache in caches)
    return k, v
