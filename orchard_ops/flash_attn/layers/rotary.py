"""Rotary position embedding, as ``flash_attn.layers.rotary`` has it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..._arguments.checks import (
    check_flag,
    check_is_floating,
    check_is_tensor,
    check_rank,
    check_rotary_table,
    whole_number,
)
from ..._errors import InvalidProblemError
from ..._functions.rotary import rotate
from ..._tracing import is_compiling

__all__ = ["apply_rotary_emb"]

_NAME = "apply_rotary_emb"


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Turn the first ``rotary_dim`` dimensions of x by the angles of its positions.

    Differentiable in x; computed in float32 by PyTorch's operators.

    Args:
        x: ``[batch, len, heads, head_dim]``; with cu_seqlens ``[total, heads,
            head_dim]``.
        cos: ``[positions, rotary_dim / 2]``.
        sin: as cos.
        interleaved: pairs are neighboring dimensions; else the two halves.
        inplace: write the result into x, and return x.
        seqlen_offsets: the position of each sequence's first token: an int, or
            ``[batch]`` integers, which are not read on the host: a position beyond the
            table turns nothing.
        cu_seqlens: ``[batch + 1]`` int32: where each packed sequence begins, and where
            the last one ends.
        max_seqlen: the longest packed sequence's length; given with cu_seqlens.

    Returns:
        The shape and dtype of x.

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    check_rank(_NAME, "batch, len" if cu_seqlens is None else "total",
               4 if cu_seqlens is None else 3, x=x)  # fmt: skip
    check_is_floating(_NAME, "x", x)
    if cu_seqlens is not None:
        _check_starts(x, cu_seqlens)
    check_rotary_table(_NAME, x, cos=cos, sin=sin)
    length = x.size(1) if cu_seqlens is None else _longest(max_seqlen)
    if not isinstance(seqlen_offsets, Tensor):
        advice = "several offsets are a tensor of shape [batch]"
        first = whole_number(_NAME, "seqlen_offsets", seqlen_offsets, advice)
        _check_positions(first, length, cos)
    else:
        _check_offsets(x, seqlen_offsets, cu_seqlens)
        # One row more, which turns by no angle, for whatever lies beyond.
        cos = functional.pad(cos, (0, 0, 0, 1), value=1.0)
        sin = functional.pad(sin, (0, 0, 0, 1))
    if cu_seqlens is None:
        steps = torch.arange(length, device=x.device)
        positions = steps.expand(x.size(0), length)
        if isinstance(seqlen_offsets, Tensor):
            seqlen_offsets = seqlen_offsets.long().unsqueeze(1)
        positions = positions + seqlen_offsets
    else:
        positions = _packed_positions(x.size(0), cu_seqlens, seqlen_offsets)
    flat = x if cu_seqlens is None else x.unsqueeze(0)
    is_interleaved = check_flag(_NAME, "interleaved", interleaved)
    turned = rotate(flat, cos, sin, positions, is_interleaved).view_as(x)
    return x.copy_(turned) if check_flag(_NAME, "inplace", inplace) else turned


def _check_positions(first: int, length: int, cos: Tensor) -> None:
    if first < 0 or first + length > cos.size(0):
        raise InvalidProblemError(
            f"[{_NAME}] expected seqlen_offsets from 0 to {cos.size(0) - length}, cos "
            f"having {cos.size(0)} rows and {length} positions being turned, got "
            f"{first}; add rows to cos and sin"
        )


def _check_offsets(x: Tensor, offsets: Tensor, cu_seqlens: Tensor | None) -> None:
    check_is_tensor(_NAME, "seqlen_offsets", offsets)
    batch = x.size(0) if cu_seqlens is None else cu_seqlens.size(0) - 1
    is_whole = offsets.dtype in (torch.int32, torch.int64)
    if list(offsets.shape) != [batch] or not is_whole or offsets.device != x.device:
        raise InvalidProblemError(
            f"[{_NAME}] expected seqlen_offsets to be an int, or int32 of shape "
            f"[{batch}] on {x.device}, got {offsets.dtype} of shape "
            f"{list(offsets.shape)} on {offsets.device}; convert it with .to"
        )


def _check_starts(x: Tensor, cu_seqlens: Tensor) -> None:
    """Check where packed sequences begin; only the CPU shows the numbers."""
    check_is_tensor(_NAME, "cu_seqlens", cu_seqlens)
    is_whole = cu_seqlens.dtype in (torch.int32, torch.int64)
    is_list = is_whole and cu_seqlens.dim() == 1 and cu_seqlens.numel() > 0
    if is_list and cu_seqlens.device.type == "cpu" and not is_compiling():
        numbers = cu_seqlens.tolist()
        is_list = numbers[0] == 0 and numbers[-1] <= x.size(0)
        is_list = is_list and numbers == sorted(numbers)
    if not is_list or cu_seqlens.device != x.device:
        raise InvalidProblemError(
            f"[{_NAME}] expected cu_seqlens to be int32 of shape [batch + 1] on "
            f"{x.device}, rising from 0 to at most x's first size, got "
            f"{cu_seqlens.dtype} of shape {list(cu_seqlens.shape)} on "
            f"{cu_seqlens.device} beside x of shape {list(x.shape)}; it holds where "
            "each sequence begins, and at last where the last one ends"
        )


def _longest(max_seqlen: int | None) -> int:
    advice = "pass the longest sequence's length, which goes with cu_seqlens"
    return whole_number(_NAME, "max_seqlen", max_seqlen, advice)


def _packed_positions(
    total: int,
    cu_seqlens: Tensor,
    offsets: int | Tensor,
) -> Tensor:
    """Return ``[1, total]``: each token's place in its own sequence, and the offset."""
    starts = cu_seqlens.long()
    # How many sequences have ended at each token; the rest belongs to the last one.
    # In float32, of which MPS has atomic sums.
    ends = starts[1:-1]
    marks = torch.zeros(total + 1, dtype=torch.float32, device=starts.device)
    marks = marks.index_put((ends,), torch.ones_like(ends).float(), accumulate=True)
    sequence = marks[:total].cumsum(0).long()
    positions = torch.arange(total, device=starts.device) - starts[sequence]
    if isinstance(offsets, Tensor):
        return (positions + offsets.long()[sequence]).unsqueeze(0)
    return (positions + offsets).unsqueeze(0)
