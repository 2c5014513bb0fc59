"""The public attention functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _native
from ._checks import causal_code, check_dropout, check_shapes, check_tensors, reject
from ._composite import attention as composite
from ._errors import DeviceError, InvalidProblemError, OrchardError, translate

__all__ = ["flash_attention", "flash_attn_fwd", "supports"]


def flash_attention(
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
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax attention without storing the len_q by len_kv scores.

    Equals, with ``s`` the scale and ``keep`` the causal mask,
    ``torch.softmax((s * q @ k.mT).masked_fill(~keep, -inf), -1) @ v``,
    differentiable in q, k and v.  A query that may attend to nothing gives
    zeros, in the output and in every gradient.

    Args:
        q: ``[batch, heads_q, len_q, head_dim]``; float32, float16 or bfloat16.
            ``[batch, len_q, head_dim]`` means one head, for q, k and v alike.
        k: ``[batch, heads_kv, len_kv, head_dim]``; dtype and device of q.
        v: ``[batch, heads_kv, len_kv, head_dim_v]``; dtype and device of q.
            Head sizes from 1 to 256; head_dim_v may differ from head_dim.  Any
            strides; only a last dimension whose stride is not 1 is copied.
        attn_mask: not implemented yet.
        dropout_p: probability of dropping a weight, in [0, 1); only 0 for now.
        is_causal: let query i attend to keys up to its own position only.
        scale: factor on the scores, any finite number; 1/sqrt(head_dim) if None.
        enable_gqa: allow heads_q to be a multiple of heads_kv; query head h then
            uses key head ``h // (heads_q // heads_kv)``.
        causal_alignment: ``"top-left"``: query i sees keys 0..i, as in
            ``torch.nn.functional.scaled_dot_product_attention``;
            ``"bottom-right"``: 0..i + len_kv - len_q.
        window: not implemented yet.
        softcap: not implemented yet.
        alibi_slopes: not implemented yet.
        return_lse: return also the natural log of the sum of exponentials.

    Returns:
        ``[batch, heads_q, len_q, head_dim_v]`` in q's dtype; with
        ``return_lse`` a pair of that and ``[batch, heads_q, len_q]`` float32
        (-inf where nothing is attended to; not differentiable).  Three
        dimensions in give one dimension less in both.

    Raises:
        InvalidProblemError: the arguments do not describe an attention problem.
        UnsupportedError: an argument that is not implemented is used.
        DeviceError: the tensors are on a device whose library is missing.
    """
    name = "flash_attention"
    check_tensors(name, q, k, v)
    check_dropout(name, dropout_p)
    _check_options(name, attn_mask, dropout_p, window, softcap, alibi_slopes)
    _check_grouping(name, q, k, enable_gqa)
    causal = causal_code(name, is_causal, causal_alignment)
    out, lse = _run(name, q, k, v, _scale(q, scale), causal, return_lse)
    return (out, lse) if return_lse else out


def flash_attn_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dropout_p: float = 0.0,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute attention by the entry that users of the first orchard_ops know.

    Equals ``torch.softmax((scale * q @ k.mT).masked_fill(~keep, -inf), -1) @ v``
    with ``keep`` the causal mask aligned top-left; differentiable in q, k, v.

    Args:
        q: as in ``flash_attention``.
        k: as in ``flash_attention``.
        v: as in ``flash_attention``.
        scale: factor on the scores.
        dropout_p: probability of dropping a weight, in [0, 1); only 0 for now.
        causal: let query i attend to keys 0..i only.

    Returns:
        The output and the bool keep-mask of the attention weights,
        ``[..., len_q, len_kv]``: without dropout a view of a single True.

    Raises:
        InvalidProblemError, UnsupportedError, DeviceError: as ``flash_attention``.
    """
    name = "flash_attn_fwd"
    check_tensors(name, q, k, v)
    check_dropout(name, dropout_p)
    if dropout_p > 0.0:
        raise reject(name, "dropout_p", "pass 0.0")
    code = causal_code(name, causal, "top-left")
    out, _ = _run(name, q, k, v, _scale(q, scale), code, need_lse=False)
    keep = torch.ones((), dtype=torch.bool, device=q.device)
    return out, keep.expand(*q.shape[:-1], k.size(-2))


def supports(
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
) -> tuple[bool, str]:
    """Say whether ``flash_attention`` takes these arguments, launching nothing.

    Returns:
        ``(True, "")``, or ``(False, reason)`` with the text of the error that
        ``flash_attention`` would raise.
    """
    name = "supports"
    try:
        check_tensors(name, q, k, v)
        check_dropout(name, dropout_p)
        _check_options(name, attn_mask, dropout_p, window, softcap, alibi_slopes)
        _check_grouping(name, q, k, enable_gqa)
        causal = causal_code(name, is_causal, causal_alignment)
        factor = _scale(q, scale)
        parts = _with_heads(q, k, v)
        if q.device.type == "cpu":
            check_shapes(name, *parts, factor)
            return True, ""
        _require_ops(name, q)
        reason = str(torch.ops.orchard_ops.supports(*parts, factor, causal))
        reason = str(translate(RuntimeError(reason)))
    except OrchardError as error:
        return False, str(error)
    return not reason, reason


def _run(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: int,
    need_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Choose by device: the operators, or for CPU tensors the composite."""
    parts = _with_heads(q, k, v)
    if q.device.type == "cpu":
        check_shapes(name, *parts, scale)
        out, lse = composite(*parts, scale, causal, need_lse)
    else:
        _require_ops(name, q)
        try:
            out, lse = torch.ops.orchard_ops.forward(*parts, scale, causal)
        except RuntimeError as error:
            raise translate(error) from None
    if q.dim() == 4:
        return out, lse
    return out.squeeze(1), lse.squeeze(1) if need_lse else lse


def _with_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give three-dimensional tensors their one head, as a view."""
    if q.dim() == 4:
        return q, k, v
    return q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)


def _scale(q: Tensor, scale: float | None) -> float:
    # head_dim 0 is refused later, with its own message.
    return 1.0 / math.sqrt(max(q.size(-1), 1)) if scale is None else float(scale)


def _check_options(
    name: str,
    attn_mask: Tensor | None,
    dropout_p: float,
    window: tuple[int, int] | None,
    softcap: float,
    alibi_slopes: Tensor | None,
) -> None:
    """Refuse the arguments that this version does not implement."""
    if attn_mask is not None:
        raise reject(name, "attn_mask")
    if dropout_p > 0.0:
        raise reject(name, "dropout_p", "pass 0.0")
    if window is not None:
        raise reject(name, "window")
    if softcap != 0.0:
        raise reject(name, "softcap", "pass 0.0")
    if alibi_slopes is not None:
        raise reject(name, "alibi_slopes")


def _check_grouping(name: str, q: Tensor, k: Tensor, enable_gqa: bool) -> None:
    if not enable_gqa and q.dim() == 4 and q.size(1) != k.size(1):
        raise InvalidProblemError(
            f"[{name}] expected heads_q == heads_kv with enable_gqa=False, got "
            f"{q.size(1)} and {k.size(1)}; pass enable_gqa=True to share key heads"
        )


def _require_ops(name: str, q: Tensor) -> None:
    if "_C" not in _native.loaded_libraries():
        raise DeviceError(
            f"[{name}] expected the compiled operators for a tensor on {q.device}, "
            f"found no _C.so in {_native.library_dir()}; build the package or use CPU "
            "tensors"
        )
