"""The functions of ``flash_attn.flash_attn_interface``, on our kernels.

Meanings that all of them share, as in Dao's:

- Layouts are ``[batch, len, heads, head_dim]``, packed ``[total, heads, head_dim]``;
  heads of q may be a multiple of those of k and v.
- ``softmax_scale`` None is 1/sqrt(head_dim).
- ``causal``, ``window_size`` and ``alibi_slopes`` place query i beside key
  ``i + len_k - len_q``.  ``window_size`` is how many keys a query sees on its left and
  right; negative is any number.
- ``softcap`` bounds the scores by tanh; 0.0 or less turns it off.
- ``deterministic`` is accepted: every result here is, whatever it says.
- ``return_attn_probs`` returns ``(out, softmax_lse, S_dmask)``: lse ``[batch, heads,
  len_q]`` (packed ``[heads, total_q]``) float32, and what `signed_probabilities` says.

- ``s_aux``, by keyword alone, are attention sinks: Dao's FlashAttention-2 has none, and
  transformers passes them by this name to those that do.

And what differs: a query without keys has lse -inf (Dao: +inf), and lse passes its
gradient on (Dao drops it); float32 tensors and any head size from 1 to 576 are taken;
dropout and softcap may be combined.  Errors are ``orchard_ops.flash_attention``'s, and
name shapes with heads before lengths.
"""

from __future__ import annotations

from typing import Union

from torch import Tensor

from .._arguments import Arguments, dense_arguments, packed_arguments
from .._arguments.checks import check_flag, check_is_tensor, check_rank
from .._errors import InvalidProblemError, OrchardError, renamed
from .._functions.dense import flash_attention
from .._functions.kvcache import flash_attention_with_kvcache
from .._functions.run import attend
from .._tracing import is_compiling
from ._entries import (
    _flash_attn_backward,
    _flash_attn_forward,
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
)
from ._options import cap_of, window_of
from ._paged import check_table, gather_pages
from ._probabilities import signed_probabilities

__all__ = [
    "_flash_attn_backward",
    "_flash_attn_forward",
    "_flash_attn_varlen_backward",
    "_flash_attn_varlen_forward",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]

Result = Union[Tensor, "tuple[Tensor, Tensor, Tensor]"]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,  # noqa: ARG001 - it always is
    return_attn_probs: bool = False,
    *,
    s_aux: Tensor | None = None,
) -> Result:
    """Attend within a batch; the module's docstring explains the arguments.

    Args:
        q: ``[batch, len_q, heads_q, head_dim]``.
        k: ``[batch, len_k, heads_k, head_dim]``.
        v: ``[batch, len_k, heads_k, head_dim_v]``.
        dropout_p: probability of dropping a weight.
        softmax_scale: factor on the scores.
        causal: whether a query sees only keys up to its own position.
        window_size: ``(left, right)``.
        softcap: bound on the scores.
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]`` float32.
        deterministic: no effect.
        return_attn_probs: return also lse and S_dmask.
        s_aux: ``[heads_q]``: attention sinks.

    Returns:
        ``[batch, len_q, heads_q, head_dim_v]``, or three tensors.
    """
    name = "flash_attn_func"
    check_rank(name, "batch, len", 4, q=q, k=k, v=v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    window, cap = window_of(name, window_size), cap_of(name, softcap)
    if return_attn_probs is False and not is_compiling():
        try:
            return flash_attention(
                q, k, v, None, dropout_p, causal, softmax_scale,
                causal_alignment="bottom-right", window=window, softcap=cap,
                alibi_slopes=alibi_slopes, sinks=s_aux,
            ).transpose(1, 2)  # fmt: skip
        except OrchardError as error:
            raise renamed(error, name) from None
    asks_all = check_flag(name, "return_attn_probs", return_attn_probs)
    arguments = dense_arguments(
        name, q, k, v, None, dropout_p, causal, softmax_scale,
        causal_alignment="bottom-right", window=window, softcap=cap,
        alibi_slopes=alibi_slopes, sinks=s_aux, return_lse=asks_all,
    )  # fmt: skip
    out, lse, probabilities = _attend(name, arguments)
    out = out.transpose(1, 2)
    return (out, lse, probabilities) if asks_all else out


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Do as `flash_attn_func`, with ``kv`` of ``[batch, len_k, 2, heads_k, head_dim]``.

    Its gradient is one tensor of that shape.
    """
    k, v = _unpack("flash_attn_kvpacked_func", "kv", kv, 5, 2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes,
        deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Do as `flash_attn_func`, with ``qkv`` of ``[batch, len, 3, heads, head_dim]``.

    Its gradient is one tensor of that shape.
    """
    q, k, v = _unpack("flash_attn_qkvpacked_func", "qkv", qkv, 5, 3)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes,
        deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,  # noqa: ARG001 - it always is
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    s_aux: Tensor | None = None,
) -> Result:
    """Attend within each of several packed sequences; see the module's docstring.

    Args:
        q: ``[total_q, heads_q, head_dim]``.
        k: ``[total_k, heads_k, head_dim]``; with a block_table ``[pages, page_size,
            heads_k, head_dim]``, of which the rows in use are copied together first.
        v: like k.
        cu_seqlens_q: ``[sequences + 1]`` int32: where each sequence of queries begins,
            and where the last one ends.
        cu_seqlens_k: the same for keys.
        max_seqlen_q: the longest sequence's number of queries.
        max_seqlen_k: the longest sequence's number of keys.
        dropout_p: probability of dropping a weight.
        softmax_scale: factor on the scores.
        causal: whether a query sees only keys up to its own position.
        window_size: ``(left, right)``.
        softcap: bound on the scores.
        alibi_slopes: ``[heads_q]`` or ``[sequences, heads_q]`` float32.
        deterministic: no effect.
        return_attn_probs: return also lse and S_dmask.
        block_table: ``[sequences, pages]`` int32: the pages of each sequence's keys.
        s_aux: ``[heads_q]``: attention sinks.

    Returns:
        ``[total_q, heads_q, head_dim_v]``, or three tensors.
    """
    name = "flash_attn_varlen_func"
    if block_table is not None:
        check_rank(name, "batch, len", 4, k=k, v=v)
        k, v = gather_pages(name, (k, v), cu_seqlens_k, block_table)
    check_rank(name, "total", 3, q=q, k=k, v=v)
    asks_all = check_flag(name, "return_attn_probs", return_attn_probs)
    arguments = packed_arguments(
        name, q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k),
        dropout_p, causal, softmax_scale, causal_alignment="bottom-right",
        window=window_of(name, window_size), softcap=cap_of(name, softcap),
        alibi_slopes=alibi_slopes, sinks=s_aux, return_lse=asks_all,
    )  # fmt: skip
    out, lse, probabilities = _attend(name, arguments)
    out = out.squeeze(0).transpose(0, 1)
    return (out, lse.squeeze(0), probabilities) if asks_all else out


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Do as `flash_attn_varlen_func`, ``kv`` of ``[total_k, 2, heads_k, head_dim]``.

    Its gradient is one tensor of that shape.
    """
    k, v = _unpack("flash_attn_varlen_kvpacked_func", "kv", kv, 4, 2)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
        softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """Do as `flash_attn_varlen_func`, with ``qkv`` of ``[total, 3, heads, head_dim]``.

    Its gradient is one tensor of that shape.
    """
    q, k, v = _unpack("flash_attn_varlen_qkvpacked_func", "qkv", qkv, 4, 3)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p,
        softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    s_aux: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Do as ``orchard_ops.flash_attention_with_kvcache``, by Dao's arguments.

    Args:
        q: ``[batch, len_q, heads_q, head_dim]``.
        k_cache: ``[batch_cache, len_cache, heads_k, head_dim]``; with a block_table
            ``[pages, page_size, heads_k, head_dim]``.
        v_cache: like k_cache.
        k: ``[batch, len_new, heads_k, head_dim]`` to append in place, or None.
        v: like k.
        rotary_cos: ``[positions, rotary_dim / 2]``, or None for no rotary embedding.
        rotary_sin: like rotary_cos.
        cache_seqlens: lengths before appending: ``[batch]`` int32, one number for all,
            or None for full caches.
        cache_batch_idx: ``[batch]`` int32, the cache entry of each query.
        cache_leftpad: ``[batch]`` int32, where each cache entry begins.
        block_table: ``[batch, pages]`` int32, the pages of each entry.
        softmax_scale: factor on the scores.
        causal: whether a query sees only keys up to its own position.
        window_size: ``(left, right)``.
        softcap: bound on the scores.
        rotary_interleaved: rotate neighbors, not halves.
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]`` float32.
        num_splits: into how many parts the keys are split; 0 lets us choose.
        return_softmax_lse: return also ``[batch, heads_q, len_q]`` float32.
        s_aux: ``[heads_q]``: attention sinks.

    Returns:
        ``[batch, len_q, heads_q, head_dim_v]``, or a pair; no gradients.
    """
    name = "flash_attn_with_kvcache"
    check_rank(name, "batch, len", 4, q=q, k_cache=k_cache, v_cache=v_cache)
    if cache_seqlens is None:
        if k is not None:
            raise InvalidProblemError(
                f"[{name}] expected cache_seqlens with k and v, got None; say where "
                "the new keys belong"
            )
        pages = 1
        if block_table is not None:
            check_table(name, block_table, q.size(0), "q's batch")
            pages = block_table.size(1)
        cache_seqlens = k_cache.size(1) * pages
    return flash_attention_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=cache_seqlens,
        block_table=block_table, rotary_cos=rotary_cos, rotary_sin=rotary_sin,
        rotary_interleaved=rotary_interleaved, cache_batch_idx=cache_batch_idx,
        cache_leftpad=cache_leftpad, scale=softmax_scale, is_causal=causal,
        window=window_of(name, window_size), softcap=cap_of(name, softcap),
        alibi_slopes=alibi_slopes, sinks=s_aux, num_splits=num_splits,
        return_lse=return_softmax_lse,
    )  # fmt: skip


def _attend(name: str, arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    out, lse = attend(name, arguments)
    if not arguments.return_lse:
        return out, lse, out
    if arguments.seed is None:
        return out, lse, out.new_empty(0)
    return out, lse, signed_probabilities(arguments)


def _unpack(
    name: str, label: str, packed: Tensor, rank: int, count: int
) -> tuple[Tensor, ...]:
    check_is_tensor(name, label, packed)
    if packed.dim() != rank or packed.size(-3) != count:
        first = "[batch, len" if rank == 5 else "[total"
        raise InvalidProblemError(
            f"[{name}] expected {label} of shape {first}, {count}, heads, head_dim], "
            f"got {list(packed.shape)}; stack its parts in the third dimension from "
            "the end"
        )
    return packed.unbind(-3)
