"""The arguments of ``flash_attention``."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .._autocast import cast_inputs
from .checks import (
    check_flag,
    check_is_tensor,
    check_number,
    is_bottom_right,
    per_head,
    slopes_of,
    window_sides,
)
from .jagged import HAS_JAGGED, packed_of
from .philox import draw_seed

__all__ = ["Arguments", "dense_arguments", "seed_for"]


class Arguments(NamedTuple):
    """The arguments of ``torch.ops.orchard_ops.forward``, in its order."""

    q: Tensor  # [batch, heads_q, len_q, head_dim]
    k: Tensor  # [batch, heads_kv, len_kv, head_dim]
    v: Tensor  # [batch, heads_kv, len_kv, head_dim_v]
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = True
    is_bottom_right: bool = False
    window_left: int = -1  # -1 is open
    window_right: int = -1
    softcap: float = 0.0  # 0 is off
    alibi_slopes: Tensor | None = None  # float32, [heads_q] or [batch, heads_q]
    sinks: Tensor | None = None  # float32, [heads_q]
    seed: Tensor | None = None  # 0-dim int64 on the CPU, wherever there is dropout
    # Packed sequences: batch is 1, the lengths are totals.
    cu_seqlens_q: Tensor | None = None  # int32, [sequences + 1]
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int = 0  # 0 unless packed
    max_seqlen_k: int = 0
    return_lse: bool = False  # else lse may be empty
    # Rows and columns that are some of a whole's: q_offset, k_offset, head_offset,
    # heads_total.
    part: tuple[int, int, int, int] | None = None


def dense_arguments(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    *,
    causal_alignment: str = "top-left",
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    seed: Tensor | None = None,
) -> Arguments:
    """Check ``flash_attention``'s arguments; draw dropout's seed if none is given."""
    packed = packed_of(name, q, k, v) if HAS_JAGGED else None
    if packed is not None:
        q, k, v = packed.q, packed.k, packed.v
    check_is_tensor(name, "q", q)
    check_is_tensor(name, "k", k)
    check_is_tensor(name, "v", v)
    if attn_mask is not None:
        check_is_tensor(name, "attn_mask", attn_mask)
    q, k, v = cast_inputs(q, k, v)
    dropout_p = check_number(name, "dropout_p", dropout_p)
    left, right = window_sides(name, window)
    return Arguments(
        q,
        k,
        v,
        attn_mask,
        dropout_p,
        check_flag(name, "is_causal", is_causal),
        None if scale is None else check_number(name, "scale", scale),
        check_flag(name, "enable_gqa", enable_gqa),
        is_bottom_right(name, causal_alignment),
        left,
        right,
        check_number(name, "softcap", softcap),
        slopes_of(name, alibi_slopes),
        per_head(name, "sinks", sinks),
        seed_for(dropout_p, seed),
        cu_seqlens_q=None if packed is None else packed.cu_seqlens_q,
        cu_seqlens_k=None if packed is None else packed.cu_seqlens_k,
        max_seqlen_q=0 if packed is None else packed.max_seqlen_q,
        max_seqlen_k=0 if packed is None else packed.max_seqlen_k,
        return_lse=check_flag(name, "return_lse", return_lse),
    )


def seed_for(dropout_p: float, seed: Tensor | None = None) -> Tensor | None:
    """Return the seed of a call with dropout, drawn unless given."""
    if dropout_p == 0.0:
        return None
    return draw_seed() if seed is None else seed
