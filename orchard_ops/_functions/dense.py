"""The public attention functions for batches of equal lengths."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from .. import _native
from .._arguments import HAS_JAGGED, dense_arguments, is_jagged, nested_like
from .._arguments.checks import check_is_tensor, window_sides
from .._arguments.philox import NO_SEED, keep_mask
from .._autocast import is_any_region
from .._errors import OrchardError, translate
from .._tracing import is_compiling
from .run import attend, reason_against

__all__ = ["flash_attention", "flash_attn_fwd", "supports"]

_MASKS = (type(None), Tensor, torch.nn.Parameter)
_ALIGNMENTS = ("top-left", "bottom-right")
_NUMBERS = (float, int)
_SCALES = (type(None), float, int)


@overload
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
    sinks: Tensor | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
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
    sinks: Tensor | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
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
    sinks: Tensor | None = None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


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
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax attention without storing the len_q by len_kv scores.

    Equals, with ``s`` the scale and ``distance[i, j] = i + offset - j``::

        scores = s * q @ k.mT                                 # then, where asked:
        scores = softcap * torch.tanh(scores / softcap)
        scores = scores - alibi_slopes[..., None, None] * distance.abs()
        scores = scores + attn_mask                           # if it is not bool
        scores = scores.masked_fill(~keep, -inf)       # by bool mask, causal, window
        weights = torch.softmax(scores, -1)            # with a sink: as one more key
        out = F.dropout(weights, dropout_p) @ v

    Differentiable in q, k, v, a float attn_mask and sinks, through out and through lse,
    once (gradients of gradients raise an error); the same bits on every run.  A query
    that may attend to nothing gives zeros, in the output and in every gradient.

    Args:
        q: ``[..., batch, heads_q, len_q, head_dim]``; float32, float16 or bfloat16.
            ``[batch, len_q, head_dim]`` and ``[len_q, head_dim]`` mean one head.  The
            leading dimensions of q, k and v broadcast, as in PyTorch's function; all
            but the heads are merged, without a copy where strides let them.  Inside an
            autocast region q, k and v are cast to its dtype.
        k: ``[batch, heads_kv, len_kv, head_dim]``; dtype and device of q.
        v: ``[batch, heads_kv, len_kv, head_dim_v]``; dtype and device of q.
            Head sizes from 1 to 576; head_dim_v may differ from head_dim.  Any
            strides; only a last dimension whose stride is not 1 is copied.  Nested
            q, k and v of layout torch.jagged (PyTorch 2.4 and newer), whose lengths
            differ, are packed sequences (``flash_attention_varlen``), and the results
            are nested as q is.
        attn_mask: broadcasts to ``[..., batch, heads_q, len_q, len_kv]`` (without
            heads: ``[batch, len_q, len_kv]``); any strides.  bool: True lets a query
            attend.  Floating-point: added to the scaled scores; -inf masks, and any
            finite number, however low, is only added.  Other dtypes than float32 and
            q's are copied into float32, which holds their numbers exactly; float64 on
            the CPU alone.  With is_causal or a window a key must pass both.
        dropout_p: probability of dropping a weight, in [0, 1), rounded to a multiple
            of 1/65536; kept weights are divided by one minus it.  The random numbers
            follow from one draw from PyTorch's default CPU generator per call.
        is_causal: let query i see keys up to its own position only; as a window whose
            right side is 0.
        scale: factor on the scores, any finite number; 1/sqrt(head_dim) if None.
        enable_gqa: allow heads_q to be a multiple of heads_kv; query head h then
            uses key head ``h // (heads_q // heads_kv)``.  One key head serves all
            either way.
        causal_alignment: where query i stands among the keys, for is_causal, window
            and alibi_slopes.  ``"top-left"``: beside key i (offset 0), as in
            ``torch.nn.functional.scaled_dot_product_attention``; ``"bottom-right"``:
            beside key i + len_kv - len_q (the offset).
        window: ``(left, right)``: how many keys a query sees on either side of its
            own position, which it sees too; -1 is any number.
        softcap: bound on the scaled scores, approached by tanh; 0.0 for none.
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]``, float32 or cast to it;
            refused where it would need a gradient.
        sinks: ``[heads_q]``, float32 or cast to it: a score that joins each row's
            softmax as one more key whose value is 0.  A row that sees no key gives
            zeros all the same.
        return_lse: return also the natural log of the sum of exponentials, over the
            weights before dropout and with the sink.

    Returns:
        ``[..., batch, heads_q, len_q, head_dim_v]`` in q's dtype; with
        ``return_lse`` a pair of that and ``[..., batch, heads_q, len_q]`` float32
        (-inf where nothing is attended to, which no gradient passes).  The leading
        dimensions are those of q, k and v as broadcast.

    Raises:
        InvalidProblemError: the arguments do not describe an attention problem.
        UnsupportedError: the device cannot compute a valid problem.
        DeviceError: the tensors are on a device whose library is missing.
    """
    name = "flash_attention"
    # The operators check all but what only Python sees.  Of plain numbers, flags and
    # tensors there is nothing such, which saves most calls the look.
    if (
        not is_compiling()  # first: old compilers know neither type() nor autocast
        and type(q) is type(k) is type(v) is Tensor and type(attn_mask) in _MASKS
        and type(dropout_p) in _NUMBERS and dropout_p == 0.0
        and type(is_causal) is bool and type(scale) in _SCALES
        and type(enable_gqa) is bool and type(causal_alignment) is str
        and causal_alignment in _ALIGNMENTS and type(return_lse) is bool
        and type(softcap) in _NUMBERS and softcap == 0.0 and alibi_slopes is None
        and sinks is None and not return_lse
        and not is_any_region()
    ):  # fmt: skip
        try:
            if window is None and (not is_causal or causal_alignment == "top-left"):
                attention = _native.operator("attention")
                # What is left out the operator fills in faster than Python passes it.
                if scale is not None or not enable_gqa:
                    out: Tensor = attention(
                        q, k, v, attn_mask, 0.0, is_causal, scale, enable_gqa
                    )
                elif is_causal:
                    out = attention(q, k, v, attn_mask, 0.0, True)
                elif attn_mask is not None:
                    out = attention(q, k, v, attn_mask)
                else:
                    out = attention(q, k, v)
            else:
                left, right = (-1, -1) if window is None else window_sides(name, window)
                out = _native.operator("attention.window")(
                    q, k, v, attn_mask, 0.0, is_causal, scale, enable_gqa,
                    causal_alignment == "bottom-right", left, right,
                )  # fmt: skip
        except RuntimeError as error:
            raise translate(error, name) from None
        return out
    arguments = dense_arguments(
        name, q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa,
        causal_alignment=causal_alignment, window=window, softcap=softcap,
        alibi_slopes=alibi_slopes, sinks=sinks, return_lse=return_lse,
    )  # fmt: skip
    out, lse = attend(name, arguments)
    if HAS_JAGGED and is_jagged(q):
        out = nested_like(q, out)
        return (out, nested_like(q, lse)) if return_lse else out
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

    Equals ``F.dropout(torch.softmax((scale * q @ k.mT).masked_fill(~seen, -inf), -1),
    dropout_p) @ v`` with ``seen`` the causal mask aligned top-left; differentiable in
    q, k, v.

    Args:
        q: as in ``flash_attention``.
        k: as in ``flash_attention``.
        v: as in ``flash_attention``.
        scale: factor on the scores.
        dropout_p: probability of dropping a weight, in [0, 1).
        causal: let query i attend to keys 0..i only.

    Returns:
        The output, and the bool mask ``[..., len_q, len_kv]`` on q's device of the
        weights that dropout kept: without dropout a view of a single True, with it as
        large as it looks.

    Raises:
        InvalidProblemError, UnsupportedError, DeviceError: as ``flash_attention``.
    """
    name = "flash_attn_fwd"
    for label, tensor in (("q", q), ("k", k), ("v", v)):
        check_is_tensor(name, label, tensor)
    arguments = dense_arguments(name, q, k, v, None, dropout_p, causal, scale)
    out, _ = attend(name, arguments)
    shape = (*out.shape[:-1], arguments.k.size(-2))
    if arguments.seed is None:
        return out, torch.ones((), dtype=torch.bool, device=q.device).expand(shape)
    heads = shape[-3] if len(shape) > 3 else 1
    four = (math.prod(shape[:-2]) // max(heads, 1), heads, *shape[-2:])
    keep = keep_mask(arguments.seed, arguments.dropout_p, four).view(shape)
    return out, keep.to(q.device)


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
    sinks: Tensor | None = None,
) -> tuple[bool, str]:
    """Say whether ``flash_attention`` takes these arguments, launching nothing.

    Returns:
        ``(True, "")``, or ``(False, reason)`` with the text of the error that
        ``flash_attention`` would raise.
    """
    name = "supports"
    try:
        arguments = dense_arguments(
            name, q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa,
            causal_alignment=causal_alignment, window=window, softcap=softcap,
            alibi_slopes=alibi_slopes, sinks=sinks,
            seed=NO_SEED,
        )  # fmt: skip
        reason = reason_against(name, arguments)
    except OrchardError as error:
        return False, str(error)
    return not reason, reason
