"""The arguments of ``flash_attention_partial`` and of its backward."""

from __future__ import annotations

from torch import Tensor

from .._errors import InvalidProblemError
from .checks import check_is_tensor, whole_number
from .dense import Arguments, dense_arguments
from .philox import NO_SEED

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
    for label, tensor in (("seed", seed), ("cu_seqlens", cu_seqlens)):
        if tensor is not None:
            check_is_tensor(name, label, tensor)
    arguments = dense_arguments(
        name, q, k, v, attn_mask, dropout_p, is_causal, scale,
        window=window, softcap=softcap, alibi_slopes=alibi_slopes, return_lse=True,
        seed=NO_SEED,
    )  # fmt: skip
    advice = "pass the number of positions of the whole before the first row"
    heads_advice = "leave out head_offset and heads_total where all heads are here"
    part = (
        whole_number(name, "q_offset", q_offset, advice),
        whole_number(name, "k_offset", k_offset, advice),
        whole_number(name, "head_offset", head_offset, heads_advice),
        q.size(1)
        if heads_total is None
        else whole_number(name, "heads_total", heads_total, heads_advice),
    )
    arguments = arguments._replace(
        seed=None if arguments.dropout_p == 0.0 else seed, part=part
    )
    if cu_seqlens is None:
        return arguments
    longest = max(q.size(2), k.size(2))
    if max_seqlen is not None:
        longest = whole_number(
            name, "max_seqlen", max_seqlen, "pass the longest sequence's length"
        )
    return arguments._replace(
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=min(longest, q.size(2)),
        max_seqlen_k=min(longest, k.size(2)),
    )


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
