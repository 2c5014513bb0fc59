"""The attention of some rows over some keys: slices, positions, and what is skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functions.partial import (
    flash_attention_partial,
    flash_attention_partial_backward,
    merge_partials,
)
from ._layout import Piece

__all__ = [
    "Backward",
    "Forward",
    "Kept",
    "Options",
    "OutputGradients",
    "Pieces",
    "kept_output",
    "pack",
    "part_of",
    "sum_dtype",
    "unpack",
]

Pieces = tuple[Piece, ...]
Partial = tuple[Tensor, Tensor]  # output and log-sum-exp, as merge_partials takes them


class Kept(NamedTuple):
    """What a forward keeps for its backward, in the method's own arrangement."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    sinks: Tensor | None
    out: Tensor
    lse: Tensor


class OutputGradients(NamedTuple):
    """What a backward starts from."""

    out: Tensor
    lse: Tensor | None
    wants_mask: bool
    wants_sinks: bool


@dataclass(frozen=True)
class Options:
    """What a call asks for beside its tensors; as `flash_attention_partial` has it."""

    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    window: tuple[int, int] | None = None
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    seed: Tensor | None = None
    cu_seqlens: Tensor | None = None
    ends: tuple[int, ...] | None = None  # cu_seqlens as numbers
    head_offset: int = 0
    heads_total: int | None = None

    def of_heads(self, first: int, count: int, total: int) -> Options:
        """Return the options of some of the heads."""
        slopes = self.alibi_slopes
        if slopes is not None:
            slopes = slopes[..., first : first + count]
        return replace(self, alibi_slopes=slopes, head_offset=first, heads_total=total)

    def keywords(self, q_offset: int, k_offset: int) -> dict[str, Any]:
        """Return the arguments that follow attn_mask."""
        return {
            "dropout_p": self.dropout_p,
            "is_causal": self.is_causal,
            "scale": self.scale,
            "q_offset": q_offset,
            "k_offset": k_offset,
            "window": self.window,
            "softcap": self.softcap,
            "alibi_slopes": self.alibi_slopes,
            "seed": self.seed,
            "cu_seqlens": self.cu_seqlens,
            "max_seqlen": self._longest(),
            "head_offset": self.head_offset,
            "heads_total": self.heads_total,
        }

    def is_seen(self, q: Piece, k: Piece) -> bool:
        """Say whether any of these rows may attend to any of these keys."""
        left, right = self.window or (-1, -1)
        if self.is_causal:
            right = 0
        for first, last in self._sequences():
            q_first, q_last = max(q.begin, first), min(q.end, last) - 1
            k_first, k_last = max(k.begin, first), min(k.end, last) - 1
            is_empty = q_first > q_last or k_first > k_last
            is_ahead = right >= 0 and k_first > q_last + right
            is_behind = left >= 0 and k_last < q_first - left
            if not (is_empty or is_ahead or is_behind):
                return True
        return False

    def _longest(self) -> int | None:
        if self.ends is None:
            return None
        return max(last - first for first, last in self._sequences())

    def _sequences(self) -> Sequence[tuple[int, int]]:
        if self.ends is None:
            return ((0, 2**62),)
        return tuple(zip(self.ends, self.ends[1:]))


class Forward:
    """What rows of the whole sequence take from the blocks of keys that they are given.

    Partial outputs are float32 and merged exactly, so that their number does not show.
    """

    def __init__(
        self, q: Tensor, held: Pieces, mask: Tensor | None, options: Options
    ) -> None:
        """Take rows.

        Args:
            q: ``[batch, heads_q, rows, head_dim]``.
            held: which rows of the whole those are.
            mask: broadcasts to ``[batch, heads_q, rows, length]``, of 4 dimensions.
            options: of the call, for q's heads.
        """
        self._q, self._held, self._mask, self._options = q, held, mask, options
        self._found: list[Partial | None] = [None] * len(held)

    def add(self, k: Tensor, v: Tensor, keys: Pieces) -> None:
        """Let the rows attend to a block of keys too.

        Args:
            k: ``[batch, heads_kv, rows, head_dim]``.
            v: ``[batch, heads_kv, rows, head_dim_v]``.
            keys: which rows of the whole those are.
        """
        for index, rows in enumerate(self._held):
            parts = [
                flash_attention_partial(
                    self._q[:, :, rows.rows],
                    k[:, :, columns.rows],
                    v[:, :, columns.rows],
                    part_of(self._mask, rows, columns),
                    **self._options.keywords(rows.begin, columns.begin),
                )
                for columns in keys
                if self._options.is_seen(rows, columns)
            ]
            before = self._found[index]
            if before is not None:
                parts.insert(0, before)
            if parts:
                self._found[index] = (
                    parts[0] if len(parts) == 1 else merge_partials(parts)
                )

    def result(self, head_dim_v: int, sinks: Tensor | None) -> Partial:
        """Return the output, not yet rounded, and the log-sum-exp, with sinks in both.

        Args:
            head_dim_v: of v.
            sinks: ``[heads_q]`` float32.
        """
        found = [
            self._of_nothing(rows, head_dim_v) if part is None else part
            for rows, part in zip(self._held, self._found)
        ]
        if sinks is not None:
            found = [
                self._with_sinks(rows, part, sinks)
                for rows, part in zip(self._held, found)
            ]
        # A rank without rows has none of either.
        nothing = self._of_nothing(Piece(0, 0, 0), head_dim_v)
        outs, lses = zip(nothing, *found)
        return torch.cat(outs, 2), torch.cat(lses, 2)

    def _with_sinks(self, rows: Piece, part: Partial, sinks: Tensor) -> Partial:
        """Merge sinks, but for rows that belong to no packed sequence."""
        out, lse = merge_partials([part], sinks)
        if self._options.ends is not None:
            first = max(self._options.ends[-1] - rows.begin, 0)
            lse[:, :, first:] = -torch.inf
        return out, lse

    def _of_nothing(self, rows: Piece, head_dim_v: int) -> Partial:
        shape = (*self._q.shape[:2], rows.end - rows.begin)
        dtype = sum_dtype(self._q)
        return (
            self._q.new_zeros((*shape, head_dim_v), dtype=dtype),
            self._q.new_full(shape, -torch.inf, dtype=dtype),
        )


class Backward:
    """The gradients of rows, summed over the blocks of keys that they are given.

    Attributes:
        dq: ``[batch, heads_q, rows, head_dim]`` float32.
        dmask: in the mask's shape, float32; None if the mask needs no gradient.
    """

    def __init__(
        self, kept: Kept, held: Pieces, options: Options, grads: OutputGradients
    ) -> None:
        """Take rows, their results over all keys, and the gradients of these.

        Args:
            kept: of the forward; of its tensors all but k and v are used.
            held: which rows of the whole q's are.
            options: of the forward.
            grads: of the output and of its log-sum-exp.
        """
        self._kept, self._held, self._options, self._grads = kept, held, options, grads
        self.dq = torch.zeros_like(kept.q, dtype=sum_dtype(kept.q))
        mask = kept.mask if grads.wants_mask else None
        self.dmask = (
            None if mask is None else torch.zeros_like(mask, dtype=self.dq.dtype)
        )
        self._mask = kept.mask if mask is None else mask.detach().requires_grad_()

    def add(self, k: Tensor, v: Tensor, keys: Pieces, dk: Tensor, dv: Tensor) -> None:
        """Add what a block of keys has a part in.

        Args:
            k: ``[batch, heads_kv, rows, head_dim]``.
            v: ``[batch, heads_kv, rows, head_dim_v]``.
            keys: which rows of the whole those are.
            dk: as k, float32; added to.
            dv: as v, float32; added to.
        """
        for rows in self._held:
            for columns in keys:
                if self._options.is_seen(rows, columns):
                    self._add_pair(k, v, rows, columns, dk, dv)

    def _add_pair(
        self, k: Tensor, v: Tensor, rows: Piece, columns: Piece, dk: Tensor, dv: Tensor
    ) -> None:
        kept, grads = self._kept, self._grads
        with torch.enable_grad():  # a slice of the mask needs a gradient as it does
            mask = part_of(self._mask, rows, columns)
        dq_part, dk_part, dv_part, dmask_part = flash_attention_partial_backward(
            grads.out[:, :, rows.rows],
            kept.out[:, :, rows.rows],
            kept.lse[:, :, rows.rows],
            kept.q[:, :, rows.rows],
            k[:, :, columns.rows],
            v[:, :, columns.rows],
            mask,
            grad_lse=None if grads.lse is None else grads.lse[:, :, rows.rows],
            **self._options.keywords(rows.begin, columns.begin),
        )
        self.dq[:, :, rows.rows] += dq_part
        dk[:, :, columns.rows] += dk_part
        dv[:, :, columns.rows] += dv_part
        dmask = part_of(self.dmask, rows, columns)
        if dmask is not None and dmask_part is not None:
            dmask += dmask_part


def part_of(mask: Tensor | None, rows: Piece, columns: Piece) -> Tensor | None:
    """Return a mask's part for rows and columns; where it is one for all it stays so.

    Args:
        mask: of 4 dimensions, its rows those of the rank and its columns the whole's.
        rows: queries.
        columns: keys.
    """
    if mask is None:
        return None
    if mask.size(2) != 1:
        mask = mask[:, :, rows.rows]
    if mask.size(3) != 1:
        mask = mask[..., columns.begin : columns.end]
    return mask


def kept_output(out: Tensor, q: Tensor) -> Tensor:
    """Return an output as backward takes it: as `flash_attention` itself would.

    Its kernels read the rounded one; the CPU's operators have not rounded theirs yet.
    """
    return out if out.device.type == "cpu" else out.to(q.dtype)


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which results of a tensor's dtype are summed."""
    return torch.promote_types(tensor.dtype, torch.float32)


def pack(*tensors: Tensor) -> Tensor:
    """Return the elements of tensors of one dtype one after the other, as a copy."""
    return torch.cat([each.reshape(-1) for each in tensors])


def unpack(flat: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Return views of what `pack` put together."""
    found, begin = [], 0
    for shape in shapes:
        end = begin + math.prod(shape)
        found.append(flat[begin:end].view(tuple(shape)))
        begin = end
    return found
