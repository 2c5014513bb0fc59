"""The public functions' arguments, checked and in the operators' form."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ._autocast import cast_inputs
from ._checks import (
    check_dropout,
    check_dtypes,
    check_grouping,
    check_mask,
    check_packing,
    check_per_head,
    check_scale,
    check_slopes,
    check_softcap,
    check_tensors,
    is_bottom_right,
    window_sides,
)
from ._philox import draw_seed

__all__ = ["Arguments", "dense_arguments", "packed_arguments"]


class Arguments(NamedTuple):
    """The arguments of ``torch.ops.orchard_ops.forward``, in its order."""

    q: Tensor  # [batch, heads_q, len_q, head_dim]
    k: Tensor  # [batch, heads_kv, len_kv, head_dim]
    v: Tensor  # [batch, heads_kv, len_kv, head_dim_v]
    attn_mask: Tensor | None  # 4-D, each dimension full or 1
    alibi_slopes: Tensor | None  # float32, [heads_q] or [batch, heads_q]
    sinks: Tensor | None  # float32, [heads_q]
    seed: Tensor | None  # 0-dim int64 on the CPU, wherever there is dropout
    # Packed sequences: batch is 1, the lengths are totals.
    cu_seqlens_q: Tensor | None  # int32, [sequences + 1]
    cu_seqlens_k: Tensor | None
    scale: float
    softcap: float  # 0 is off
    dropout_p: float
    window_left: int  # -1 is open
    window_right: int
    is_bottom_right: bool
    max_seqlen_q: int  # 0 unless packed
    max_seqlen_k: int


def dense_arguments(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    *,
    causal_alignment: str,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None = None,
) -> Arguments:
    """Check ``flash_attention``'s arguments; draw dropout's seed if none is given."""
    check_tensors(name, q, k, v)
    q, k, v, attn_mask = cast_inputs(q, k, v, attn_mask)
    check_dtypes(name, q, k, v)
    check_mask(name, attn_mask, q)
    check_grouping(name, q, k, enable_gqa)
    if q.dim() == 3:
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unsqueeze(1)
    if attn_mask is not None:
        attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
    dropout_p = check_dropout(name, dropout_p)
    return Arguments(
        q,
        k,
        v,
        attn_mask,
        check_slopes(name, alibi_slopes, q),
        check_per_head(name, "sinks", sinks, q),
        _seed(dropout_p, seed),
        None,
        None,
        check_scale(name, q, scale),
        check_softcap(name, softcap),
        dropout_p,
        *window_sides(name, window, is_causal),
        is_bottom_right(name, causal_alignment),
        0,
        0,
    )


def packed_arguments(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: tuple[Tensor, Tensor],
    max_seqlens: tuple[int, int],
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    *,
    causal_alignment: str,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
) -> Arguments:
    """Check ``flash_attention_varlen``'s arguments; draw dropout's seed."""
    check_tensors(name, q, k, v, is_packed=True)
    q, k, v, _ = cast_inputs(q, k, v, None)
    check_dtypes(name, q, k, v)
    longest = check_packing(name, q, cu_seqlens, max_seqlens)
    # A list, because torch.compile cannot unpack a generator everywhere.
    q, k, v = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)]
    dropout_p = check_dropout(name, dropout_p)
    return Arguments(
        q,
        k,
        v,
        None,
        check_slopes(name, alibi_slopes, q),
        check_per_head(name, "sinks", sinks, q),
        _seed(dropout_p, None),
        *cu_seqlens,
        check_scale(name, q, scale),
        check_softcap(name, softcap),
        dropout_p,
        *window_sides(name, window, is_causal),
        is_bottom_right(name, causal_alignment),
        *longest,
    )


def _seed(dropout_p: float, seed: Tensor | None) -> Tensor | None:
    if dropout_p == 0.0:
        return None
    return draw_seed() if seed is None else seed
