"""The arguments of a call: checked here, compared between ranks, made a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._arguments import dense_arguments
from .._arguments.checks import check_flag, count_of, slopes_of
from .._arguments.philox import NO_SEED, draw_seed
from .._errors import InvalidProblemError, OrchardError, UnsupportedError, translate
from . import _heads
from ._agreement import (
    Entry,
    checksum_entry,
    choice_entry,
    dtype_entry,
    exchange,
    float_entry,
    require_same,
)
from ._cost import Sizes, cheapest
from ._layout import LAYOUTS, Layout, local_length
from ._plan import Plan
from ._problem import Options
from ._transport import Link

__all__ = ["METHODS", "Call", "agreed_plan"]

METHODS = ("auto", "ring", "all_gather", "heads")


@dataclass(frozen=True)
class Call:
    """The arguments of `context_parallel_attention` in one form."""

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None  # of 4 dimensions
    sinks: Tensor | None
    options: Options  # without a seed
    layout: Layout
    method: str
    length: int | None
    returns_lse: bool

    def entries(self, seed: Tensor | None) -> list[Entry]:
        """Return what other ranks are told."""
        q, k, v, mask, options = self.q, self.k, self.v, self.mask, self.options
        mask_shape = (-1, -1, -1, -1) if mask is None else tuple(mask.shape)
        slopes = options.alibi_slopes
        left, right = options.window or (-1, -1)
        return [
            dtype_entry("dtype", q),
            Entry("batch", q.size(0)),
            Entry("heads_q", q.size(1)),
            Entry("heads_kv", k.size(1)),
            Entry("head_dim", q.size(3)),
            Entry("head_dim_v", v.size(3)),
            choice_entry("layout", self.layout, LAYOUTS),
            choice_entry("method", self.method, METHODS),
            Entry("length", -1 if self.length is None else self.length),
            choice_entry("is_causal", options.is_causal, (False, True)),
            Entry("left side of window", left),
            Entry("right side of window", right),
            float_entry("scale", options.scale),
            float_entry("softcap", options.softcap),
            float_entry("dropout_p", options.dropout_p),
            dtype_entry("dtype of attn_mask", mask),
            Entry("batch of attn_mask", mask_shape[0]),
            Entry("heads of attn_mask", mask_shape[1]),
            Entry("columns of attn_mask", mask_shape[3]),
            Entry("dimensions of alibi_slopes", 0 if slopes is None else slopes.dim()),
            choice_entry("sinks", self.sinks is not None, (False, True)),
            checksum_entry("cu_seqlens", options.ends),
            choice_entry("return_lse", self.returns_lse, (False, True)),
            _gradient_entry("any gradient needed", q, k, v, mask, self.sinks),
            _gradient_entry("gradient of attn_mask needed", mask),
            _gradient_entry("gradient of sinks needed", self.sinks),
            Entry("rows", q.size(2), is_shared=False),
            Entry("seed", 0 if seed is None else int(seed), is_shared=False),
        ]


def _gradient_entry(name: str, *tensors: Tensor | None) -> Entry:
    """Return an entry for whether backward is to be called, with its own messages."""
    needs = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return choice_entry(name, needs and torch.is_grad_enabled(), (False, True))


def agreed_plan(
    name: str, link: Link, check: bool, device: torch.device, **arguments: Any
) -> tuple[Call, Plan]:
    """Check the arguments, here and against the other ranks', and make a plan of them.

    Args:
        name: the public function, for errors.
        link: to the group's ranks.
        check: whether ranks are compared.
        device: of q.
        arguments: of `context_parallel_attention`.
    """
    is_told = check or arguments["length"] is None or arguments["dropout_p"] != 0
    is_told = is_told and link.size > 1
    try:
        call = _call(name, **arguments)
        seed = draw_seed() if call.options.dropout_p else None
        entries = call.entries(seed)
    except OrchardError:
        if is_told:
            exchange(name, link, None, device)  # so that others do not wait
        raise
    rows = [{each.name: each.number for each in entries}]
    if is_told:
        rows = exchange(name, link, entries, device)
    if check:
        require_same(name, entries, rows)
    if seed is not None:
        seed = torch.tensor(rows[0]["seed"], dtype=torch.int64, device="cpu")
    return call, _plan(call, link, [row["rows"] for row in rows], seed)


def _call(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    layout: Layout,
    method: str,
    length: int | None,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    cu_seqlens: Tensor | None,
    return_lse: bool,
) -> Call:
    """Check what one rank can see, and return it in one form."""
    for label, value, allowed in (
        ("layout", layout, LAYOUTS),
        ("method", method, METHODS),
    ):
        if not isinstance(value, str) or value not in allowed:
            raise InvalidProblemError(
                f"[{name}] expected {label} to be one of {', '.join(allowed)}, got "
                f"{value!r}"
            )
    if length is not None:
        length = count_of(name, "length", length, "it counts the rows of the whole")
    return_lse = check_flag(name, "return_lse", return_lse)
    arguments = dense_arguments(
        name, q, k, v, attn_mask, dropout_p, is_causal, scale,
        window=window, softcap=softcap, sinks=sinks, seed=NO_SEED,
        # Those of packed sequences are one row for each, which this has no word for.
        alibi_slopes=None if cu_seqlens is not None else alibi_slopes,
    )  # fmt: skip
    _require_self_attention(name, arguments.q, arguments.k, arguments.v)
    _require_supported(name, arguments)
    ends = None if cu_seqlens is None else _ends(name, cu_seqlens, arguments.q)
    left, right = arguments.window_left, arguments.window_right
    options = Options(
        dropout_p=arguments.dropout_p,
        is_causal=arguments.is_causal,
        scale=arguments.scale,
        window=None if window is None else (left, right),
        softcap=arguments.softcap,
        alibi_slopes=slopes_of(name, alibi_slopes),
        cu_seqlens=cu_seqlens,
        ends=ends,
    )
    mask = attn_mask
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    return Call(
        name, arguments.q, arguments.k, arguments.v, mask, arguments.sinks, options,
        layout, method, length, return_lse,
    )  # fmt: skip


def _require_self_attention(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    if (q.dim(), k.dim(), v.dim()) != (4, 4, 4):
        raise InvalidProblemError(
            f"[{name}] expected q, k and v of shape [batch, heads, rows, head_dim], "
            f"got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}; add dimensions "
            "by unsqueeze"
        )
    if q.size(2) != k.size(2):
        raise UnsupportedError(
            f"[{name}] expected q and k to be the same rows of one sequence, got "
            f"{q.size(2)} rows of q and {k.size(2)} of k; for cross-attention let each "
            "rank have all keys, and call flash_attention with its rows of q"
        )


def _require_supported(name: str, arguments: Any) -> None:
    """Raise what `flash_attention` would, of these rows and of as many columns."""
    mask = arguments.attn_mask
    if mask is not None:
        if mask.dim() > 4:
            raise InvalidProblemError(
                f"[{name}] expected attn_mask to broadcast to [batch, heads_q, rows, "
                f"length], got {list(mask.shape)}; merge or add dimensions"
            )
        if mask.dim() and mask.size(-1) != 1:
            mask = mask[..., : arguments.q.size(2)]
    _native.require_loaded(name)
    reason = _native.operator("supports")(*arguments._replace(attn_mask=mask))
    if reason:
        raise translate(RuntimeError(reason), name)


def _ends(name: str, cu_seqlens: Tensor, q: Tensor) -> tuple[int, ...]:
    """Return where packed sequences begin and end, as numbers."""
    is_row = cu_seqlens.dim() == 1 and cu_seqlens.numel() > 0
    found = tuple(cu_seqlens.tolist()) if is_row else ()
    is_rising = all(first <= last for first, last in zip(found, found[1:]))
    if (
        not is_row or cu_seqlens.dtype != torch.int32 or cu_seqlens.device != q.device
        or found[0] != 0 or not is_rising or q.size(0) != 1
    ):  # fmt: skip
        raise InvalidProblemError(
            f"[{name}] expected cu_seqlens of shape [sequences + 1], int32 on "
            f"{q.device}, which rise from 0 on, with q of batch 1, got "
            f"{list(cu_seqlens.shape)} {cu_seqlens.dtype} on {cu_seqlens.device} and "
            f"batch {q.size(0)}; pass those of the whole packed sequence"
        )
    return found


def _plan(call: Call, link: Link, rows: list[int], seed: Tensor | None) -> Plan:
    """Return the plan of a call on whose numbers ranks have agreed.

    Args:
        call: of this rank.
        link: to the group's ranks.
        rows: how many each rank has; this one's alone where no others were asked.
        seed: of dropout.
    """
    length = sum(rows) if call.length is None else call.length
    _require_shares(call, link, length, rows)
    mask, ends = call.mask, call.options.ends
    if mask is not None and mask.size(3) not in (1, length):
        raise InvalidProblemError(
            f"[{call.name}] expected attn_mask with a column for each of the whole "
            f"sequence's {length} rows, or one for all, got {mask.size(3)}; cut its "
            "rows by shard(dim=-2), not its columns"
        )
    if ends is not None and ends[-1] > length:
        raise InvalidProblemError(
            f"[{call.name}] expected cu_seqlens to end at the whole length {length} or "
            f"before, got {ends[-1]}; pass those of the whole packed sequence"
        )
    method = call.method
    if method == "auto":
        method = cheapest(_sizes(call, link, length))
    if method == "heads":
        _heads.require_divisible(call.name, link.size, call.q.size(1), call.k.size(1))
    options = replace(call.options, seed=seed, heads_total=call.q.size(1))
    return Plan(link, call.layout, length, options, method, call.returns_lse)


def _require_shares(call: Call, link: Link, length: int, rows: list[int]) -> None:
    ranks = [*range(link.size)] if len(rows) == link.size else [link.rank]
    wanted = [local_length(length, link.size, rank, call.layout) for rank in ranks]
    if rows != wanted:
        raise InvalidProblemError(
            f"[{call.name}] expected {wanted} rows on ranks {ranks}, as {call.layout} "
            f"cuts {length} for {link.size} ranks, got {rows}; cut the sequence with "
            "orchard_ops.distributed.shard, and pass its length"
        )


def _sizes(call: Call, link: Link, length: int) -> Sizes:
    q, k, v = call.q, call.k, call.v
    return Sizes(
        ranks=link.size, batch=q.size(0), length=length, heads_q=q.size(1),
        heads_kv=k.size(1), head_dim=q.size(3), head_dim_v=v.size(3),
        element_bytes=q.element_size(),
    )  # fmt: skip
