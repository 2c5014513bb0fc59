"""The arguments of ``flash_attention_partial`` and of its backward."""

from __future__ import annotations

from torch import Tensor

from .._autocast import cast_inputs
from .._errors import InvalidProblemError
from .checks import (
    check_flag,
    check_is_tensor,
    check_number,
    count_of,
    slopes_of,
    window_sides,
)
from .dense import Arguments

__all__ = ["partial_arguments"]


def partial_arguments(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    *,
    q_offset: int,
    k_offset: int,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
    seed: Tensor | None,
    cu_seqlens: Tensor | None,
    max_seqlen: int | None,
    head_offset: int,
    heads_total: int | None,
) -> Arguments:
    """Check what compiled code cannot see; no seed is drawn: all parts share one."""
    _check_sizes(name, q, k, v)
    optional = (("attn_mask", attn_mask), ("seed", seed), ("cu_seqlens", cu_seqlens))
    for label, tensor in optional:
        if tensor is not None:
            check_is_tensor(name, label, tensor)
    q, k, v = cast_inputs(q, k, v)
    dropout_p = check_number(name, "dropout_p", dropout_p)
    left, right = window_sides(name, window)
    longest = 0
    if cu_seqlens is not None:
        longest = max(q.size(2), k.size(2))
        if max_seqlen is not None:
            longest = _whole(name, "max_seqlen", max_seqlen)
    return Arguments(
        q,
        k,
        v,
        attn_mask,
        dropout_p,
        check_flag(name, "is_causal", is_causal),
        None if scale is None else check_number(name, "scale", scale),
        window_left=left,
        window_right=right,
        softcap=check_number(name, "softcap", softcap),
        alibi_slopes=slopes_of(name, alibi_slopes),
        seed=None if dropout_p == 0.0 else seed,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=min(longest, q.size(2)),
        max_seqlen_k=min(longest, k.size(2)),
        return_lse=True,
        part=(
            _whole(name, "q_offset", q_offset),
            _whole(name, "k_offset", k_offset),
            _whole(name, "head_offset", head_offset),
            q.size(1)
            if heads_total is None
            else _whole(name, "heads_total", heads_total),
        ),
    )


def _whole(name: str, label: str, value: int) -> int:
    """Return a number of positions or heads of the whole."""
    return count_of(name, label, value, "it counts what the whole has")


def _check_sizes(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse what ``flash_attention`` would broadcast: gradients are as q, k and v."""
    for label, tensor in (("q", q), ("k", k), ("v", v)):
        check_is_tensor(name, label, tensor)
    if (
        q.dim() == k.dim() == v.dim() == 4
        and q.size(0) == k.size(0)
        and k.shape[:3] == v.shape[:3]
        and (q.size(1) % k.size(1) if k.size(1) else q.size(1)) == 0
    ):
        return
    raise InvalidProblemError(
        f"[{name}] expected q [batch, heads_q, len_q, head_dim], k [batch, heads_kv, "
        "len_kv, head_dim] and v [batch, heads_kv, len_kv, head_dim_v], heads_q a "
        f"multiple of heads_kv, got {list(q.shape)}, {list(k.shape)} and "
        f"{list(v.shape)}; nothing broadcasts here: expand or slice them"
    )
