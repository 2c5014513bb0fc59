"""The public attention function for packed sequences."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from .._arguments import packed_arguments
from .run import attend

__all__ = ["flash_attention_varlen"]


@overload
def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    causal_alignment: str = "top-left",
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    causal_alignment: str = "top-left",
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    causal_alignment: str = "top-left",
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def flash_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    causal_alignment: str = "top-left",
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax attention within each of several packed sequences.

    Equals, for each ``i``, with ``qs = q[cu_seqlens_q[i]:cu_seqlens_q[i + 1]]`` and
    ``ks``, ``vs`` likewise, the transpose of ``flash_attention`` with the batch
    ``qs.transpose(0, 1)[None], ks.transpose(0, 1)[None], vs.transpose(0, 1)[None]``.

    Sequences never see each other, whatever their order; nothing is padded.

    Args:
        q: ``[total_q, heads_q, head_dim]``; float32, float16 or bfloat16.
        k: ``[total_k, heads_kv, head_dim]``; dtype and device of q.
        v: ``[total_k, heads_kv, head_dim_v]``; dtype and device of q.
        cu_seqlens_q: ``[sequences + 1]`` int32 on q's device: where each sequence of
            queries begins, from 0 on, and at last where the last one ends.  Tokens
            after that give zeros.  Only on the CPU are the numbers checked.
        cu_seqlens_k: the same for keys and values; a sequence may be empty.
        max_seqlen_q: the longest sequence's number of queries, or more.
        max_seqlen_k: the longest sequence's number of keys, or more.
        dropout_p: as in ``flash_attention``.
        is_causal: as in ``flash_attention``.
        scale: as in ``flash_attention``.
        causal_alignment: as in ``flash_attention``, by each sequence's own lengths.
        window: as in ``flash_attention``.
        softcap: as in ``flash_attention``.
        alibi_slopes: ``[heads_q]`` or ``[sequences, heads_q]``.
        sinks: as in ``flash_attention``.
        return_lse: return also the natural log of the sum of exponentials.

    Returns:
        ``[total_q, heads_q, head_dim_v]`` in q's dtype; with ``return_lse`` a pair of
        that and ``[heads_q, total_q]`` float32, with a gradient too.

    Raises:
        InvalidProblemError, UnsupportedError, DeviceError: as ``flash_attention``.
    """
    name = "flash_attention_varlen"
    arguments = packed_arguments(
        name, q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k),
        dropout_p, is_causal, scale,
        causal_alignment=causal_alignment, window=window, softcap=softcap,
        alibi_slopes=alibi_slopes, sinks=sinks, return_lse=return_lse,
    )  # fmt: skip
    out, lse = attend(name, arguments)
    out = out.squeeze(0).transpose(0, 1)
    return (out, lse.squeeze(0)) if return_lse else out
