"""Packed sequences out of a paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .._arguments.checks import check_is_tensor
from .._errors import InvalidProblemError, UnsupportedError

__all__ = ["check_table", "gather_pages"]


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
    pages, page_size = caches[0].shape[:2]
    if caches[1].shape[:3] != caches[0].shape[:3]:
        raise InvalidProblemError(
            f"[{name}] expected k and v of as many pages, rows and heads, got "
            f"{list(caches[0].shape)} and {list(caches[1].shape)}; slice them"
        )
    if caches[1].device != caches[0].device:
        raise InvalidProblemError(
            f"[{name}] expected k and v on one device, got {caches[0].device} and "
            f"{caches[1].device}; move one with .to"
        )
    for label, tensor in (("cu_seqlens_k", cu_seqlens), ("block_table", block_table)):
        check_is_tensor(name, label, tensor)
        if tensor.is_meta:
            raise UnsupportedError(
                f"[{name}] expected {label} with numbers, which say what to gather, "
                "got a tensor of the meta device; gather pages on another device"
            )
    lengths = _lengths_of(name, cu_seqlens)
    starts = cu_seqlens.cpu().long()
    check_table(name, block_table, lengths.size(0), "each sequence of cu_seqlens_k")
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
    wrong = page[(page < 0) | (page >= pages)]
    if wrong.numel():
        raise InvalidProblemError(
            f"[{name}] expected block_table to name pages from 0 to {pages - 1}, as k "
            f"has, got {int(wrong[0])}; name one that is there"
        )
    rows = (page * page_size + place % page_size).to(caches[0].device)
    k, v = (cache.flatten(0, 1).index_select(0, rows) for cache in caches)
    return k, v


def check_table(name: str, table: Tensor, rows: int, of_what: str) -> None:
    """Check that a block_table has a row for each of something."""
    check_is_tensor(name, "block_table", table)
    is_whole = table.dtype in (torch.int32, torch.int64)
    if table.dim() != 2 or table.size(0) != rows or not is_whole:
        raise InvalidProblemError(
            f"[{name}] expected block_table to be int32 of shape [{rows}, pages], a "
            f"row for {of_what}, got {table.dtype} of shape {list(table.shape)}; make "
            "it with torch.stack"
        )


def _lengths_of(name: str, cu_seqlens: Tensor) -> Tensor:
    """Return the sequences' lengths, on the CPU."""
    is_whole = cu_seqlens.dim() == 1 and cu_seqlens.dtype in (torch.int32, torch.int64)
    lengths = cu_seqlens.cpu().long().diff() if is_whole else None
    if lengths is None or int(cu_seqlens[:1].sum()) != 0 or bool((lengths < 0).any()):
        raise InvalidProblemError(
            f"[{name}] expected cu_seqlens_k to rise from 0, one number more than "
            f"there are sequences, got {cu_seqlens.tolist()}; it holds where each "
            "sequence begins, and at last where the last ends"
        )
    return lengths
