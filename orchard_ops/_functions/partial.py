"""Attention of some rows to some columns, and what makes parts a whole.

For whoever holds a sequence in pieces: of each pair of pieces
``flash_attention_partial`` gives what its keys alone would, ``merge_partials`` the
attention to all keys, and ``flash_attention_partial_backward`` what a pair adds to the
gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._arguments import Arguments, partial_arguments
from .._arguments.checks import check_is_floating, check_is_tensor, per_head
from .._errors import InvalidProblemError
from .backward import gradients
from .run import attend

__all__ = [
    "flash_attention_partial",
    "flash_attention_partial_backward",
    "merge_partials",
    "sink_gradient",
]


def flash_attention_partial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    q_offset: int = 0,
    k_offset: int = 0,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    head_offset: int = 0,
    heads_total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute what some of a sequence's keys give to some of its queries.

    Equals, with q_all, k_all and v_all the whole sequence's, ``rows`` and ``columns``
    the slices that q and k are of them, and the options as they are::

        out, lse = flash_attention(q_all, k_all, v_all, only_columns, return_lse=True)
        return out[:, :, rows].float(), lse[:, :, rows]

    where ``only_columns`` is a mask that hides all other keys, but for ``out``, which
    is not rounded.  ``merge_partials`` makes of such parts the attention to all keys.

    Records no gradient, whatever q, k, v and attn_mask require: that is
    ``flash_attention_partial_backward``, which needs the merged results.

    Args:
        q: ``[batch, heads_q, len_q, head_dim]``; float32, float16 or bfloat16.
        k: ``[batch, heads_kv, len_kv, head_dim]``; dtype and device of q.
        v: ``[batch, heads_kv, len_kv, head_dim_v]``; dtype and device of q.
        attn_mask: broadcasts to ``[batch, heads_q, len_q, len_kv]``: these rows and
            columns of the whole's mask.  As in ``flash_attention``.
        dropout_p: as in ``flash_attention``; needs a seed.
        is_causal: let the query at position i see keys up to that position only.
        scale: as in ``flash_attention``.
        q_offset: the position of q's first row in the whole sequence: is_causal,
            window, alibi_slopes and dropout count positions there.
        k_offset: the position of k's first row in the whole sequence.
        window: as in ``flash_attention``.
        softcap: as in ``flash_attention``.
        alibi_slopes: ``[heads_q]`` or ``[batch, heads_q]`` (``[sequences, heads_q]``
            with cu_seqlens), of these heads; float32 or cast to it.
        seed: one int64 on the CPU, the same for all parts.  A weight is dropped by its
            seed, batch entry or sequence, head, row and column of the whole alone:
            where ``flash_attention`` with that seed would drop it.  k_offset a multiple
            of 32 makes this cheaper.
        cu_seqlens: ``[sequences + 1]`` int32 on q's device: q and k are rows of a
            packed whole (a batch of 1) in which sequences begin there, as in
            ``flash_attention_varlen``.  Parts may begin and end anywhere; a query sees
            keys of its own sequence, and positions count from where that begins.
            Only on the CPU are the numbers checked.
        max_seqlen: the longest sequence's length in the whole, or more; None may be
            any.  With many short sequences it saves the GPU empty work.
        head_offset: the number of q's first head among the whole's, for dropout.
        heads_total: how many heads the whole has; heads_q if None.

    Returns:
        ``(out, lse)``: ``[batch, heads_q, len_q, head_dim_v]`` and ``[batch, heads_q,
        len_q]``, both float32 (float64 if q is, on the CPU); 0 and -inf where a query
        sees none of these keys.

    Raises:
        InvalidProblemError: the arguments do not describe such a part.
        UnsupportedError: the device cannot compute a valid problem.
        DeviceError: the tensors are on a device whose library is missing.
    """
    name = "flash_attention_partial"
    arguments = partial_arguments(
        name, q, k, v, attn_mask, dropout_p, is_causal, scale,
        q_offset=q_offset, k_offset=k_offset, window=window, softcap=softcap,
        alibi_slopes=alibi_slopes, seed=seed, cu_seqlens=cu_seqlens,
        max_seqlen=max_seqlen, head_offset=head_offset, heads_total=heads_total,
    )  # fmt: skip
    with torch.no_grad():
        return attend(name, arguments)


def flash_attention_partial_backward(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    grad_lse: Tensor | None = None,
    q_offset: int = 0,
    k_offset: int = 0,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    head_offset: int = 0,
    heads_total: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Compute what some queries and some keys add to the gradients of attention.

    Equals, with ``scores`` those of ``flash_attention`` and ``s`` the scale::

        weights = torch.exp(scores - lse[..., None])  # among all keys; 0 where masked
        dropped, dweights = F.dropout([weights, grad_out @ v.mT])     # the same ones
        delta = (grad_out * out).sum(-1) - grad_lse
        dmask = weights * (dweights - delta[..., None])
        dscores = s * dmask  # with softcap times its derivative
        dq, dk, dv = dscores @ k, dscores.mT @ q, dropped.mT @ grad_out

    The gradients of ``flash_attention`` over all queries and keys are, of q, the sums
    of dq over the parts of the keys; of k and v, those of dk and dv over the parts of
    the queries; of attn_mask each part has its own slice.  Those of sinks are
    ``sink_gradient``'s.

    Args:
        grad_out: the gradient of the merged output; as out.
        out: ``[batch, heads_q, len_q, head_dim_v]`` as ``merge_partials`` gives it for
            all keys, or in q's dtype, to which a GPU rounds it as one call for all keys
            does.
        lse: ``[batch, heads_q, len_q]`` float32 (float64 with float64), as
            ``merge_partials`` gives it for all keys.
        q: as in ``flash_attention_partial``.
        k: as in ``flash_attention_partial``.
        v: as in ``flash_attention_partial``.
        attn_mask: as in ``flash_attention_partial``.
        dropout_p: as in ``flash_attention_partial``.
        is_causal: as in ``flash_attention_partial``.
        scale: as in ``flash_attention_partial``.
        grad_lse: the gradient of the merged lse, as it, if there is one.
        q_offset: as in ``flash_attention_partial``.
        k_offset: as in ``flash_attention_partial``.
        window: as in ``flash_attention_partial``.
        softcap: as in ``flash_attention_partial``.
        alibi_slopes: as in ``flash_attention_partial``.
        seed: as in ``flash_attention_partial``.
        cu_seqlens: as in ``flash_attention_partial``.
        max_seqlen: as in ``flash_attention_partial``.
        head_offset: as in ``flash_attention_partial``.
        heads_total: as in ``flash_attention_partial``.

    Returns:
        ``(dq, dk, dv, dmask)``: of the shapes of q, k and v in float32 (float64 if q
        is); dmask as attn_mask if that is a floating-point tensor that requires a
        gradient, else None.

    Raises:
        InvalidProblemError, UnsupportedError, DeviceError: as
            ``flash_attention_partial``.
    """
    name = "flash_attention_partial_backward"
    arguments = partial_arguments(
        name, q, k, v, attn_mask, dropout_p, is_causal, scale,
        q_offset=q_offset, k_offset=k_offset, window=window, softcap=softcap,
        alibi_slopes=alibi_slopes, seed=seed, cu_seqlens=cu_seqlens,
        max_seqlen=max_seqlen, head_offset=head_offset, heads_total=heads_total,
    )  # fmt: skip
    _check_results(name, arguments, grad_out, out, lse, grad_lse)
    if q.device.type != "cpu":
        grad_out, out = grad_out.to(arguments.q.dtype), out.to(arguments.q.dtype)
    has_mask_gradient = (
        attn_mask is not None
        and attn_mask.is_floating_point()
        and attn_mask.requires_grad
    )
    with torch.no_grad():
        dq, dk, dv, dmask = gradients(
            name, arguments, grad_out, out, lse, grad_lse,
            has_mask_gradient=has_mask_gradient,
        )  # fmt: skip
    if attn_mask is not None and dmask is not None:
        dmask = dmask.to(attn_mask.dtype).reshape(attn_mask.shape)
    return dq, dk, dv, dmask


def _check_results(
    name: str,
    arguments: Arguments,
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_lse: Tensor | None,
) -> None:
    """Check the merged results and their gradients against q and v."""
    q, v = arguments.q, arguments.v
    compute = torch.promote_types(q.dtype, torch.float32)
    rows = list(q.shape[:3])
    of_out = ([*rows, v.size(3)], {q.dtype, compute})
    expected = [("grad_out", grad_out, *of_out), ("out", out, *of_out)]
    expected.append(("lse", lse, rows, {compute}))
    if grad_lse is not None:
        expected.append(("grad_lse", grad_lse, rows, {compute}))
    for label, tensor, shape, dtypes in expected:
        check_is_tensor(name, label, tensor)
        if (
            list(tensor.shape) == shape
            and tensor.dtype in dtypes
            and tensor.device == q.device
        ):
            continue
        words = " or ".join(sorted(map(str, dtypes)))
        raise InvalidProblemError(
            f"[{name}] expected {label} of shape {shape}, {words}, on {q.device}, got "
            f"{list(tensor.shape)}, {tensor.dtype}, on {tensor.device}; pass what "
            "merge_partials returned for these queries, and its gradients"
        )


def merge_partials(
    parts: Sequence[tuple[Tensor, Tensor]], sinks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make the attention to all keys of the attention to some at a time.

    Equals, with ``outs`` and ``lses`` the parts' stacked in a new first dimension::

        lse = torch.logsumexp(torch.cat([lses, sinks.expand(...)]), 0)
        out = (torch.exp(lses - lse)[..., None] * outs).sum(0)

    Args:
        parts: what ``flash_attention_partial`` returned for the same queries and
            different keys, at least one, in any order; or what this returned for some
            of them.
        sinks: ``[heads_q]``, float32 or cast to it: as in ``flash_attention``, once for
            all keys.

    Returns:
        ``(out, lse)`` of the parts' shapes and dtype: 0 and -inf where no part has a
        key for a query; with sinks 0 and the sink, as in ``flash_attention``.

    Raises:
        InvalidProblemError: the parts are not of the same queries.
    """
    name = "merge_partials"
    _check_parts(name, parts)
    lses = torch.stack([lse for _, lse in parts])
    top = lses.amax(0)
    sinks = per_head(name, "sinks", sinks)
    if sinks is not None:
        sinks = _for_rows(name, sinks, top)
        top = torch.maximum(top, sinks)
    top = top.masked_fill(top == -math.inf, 0.0)
    terms = torch.exp(lses - top)
    total = terms.sum(0)
    if sinks is not None:
        total = total + torch.exp(sinks - top)
    is_empty = total == 0.0
    shares = terms / total.masked_fill(is_empty, 1.0)
    out = parts[0][0] * shares[0].unsqueeze(-1)
    for (more, _), share in zip(parts[1:], shares[1:]):
        out.addcmul_(more, share.unsqueeze(-1))
    lse = (total.masked_fill(is_empty, 1.0).log() + top).masked_fill(
        is_empty, -math.inf
    )
    return out, lse


def _check_parts(name: str, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    is_list = isinstance(parts, Sequence) and not isinstance(parts, (str, bytes))
    if not is_list or any(
        not isinstance(part, (tuple, list)) or len(part) != 2 for part in parts
    ):
        raise InvalidProblemError(
            f"[{name}] expected parts to be a list of pairs (out, lse), got "
            f"{type(parts).__name__}; pass what flash_attention_partial returned"
        )
    if not len(parts):
        raise InvalidProblemError(
            f"[{name}] expected at least one part, got none; leave out the merging "
            "where there are no keys"
        )
    first = parts[0][0]
    for out, lse in parts:
        check_is_tensor(name, "out", out)
        check_is_tensor(name, "lse", lse)
        kinds = {(t.dtype, t.device) for t in (first, out, lse)}
        if (
            out.shape == first.shape
            and lse.shape == out.shape[:-1]
            and len(kinds) == 1
            and out.dtype in (torch.float32, torch.float64)
        ):
            continue
        raise InvalidProblemError(
            f"[{name}] expected each out as the first, {list(first.shape)}, and lse "
            "without its last dimension, all float32 (or all float64) on one device, "
            f"got out {list(out.shape)} {out.dtype} on {out.device} and lse "
            f"{list(lse.shape)} {lse.dtype} on {lse.device}; pass what "
            "flash_attention_partial returned for the same queries"
        )


def sink_gradient(
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    sinks: Tensor,
    grad_lse: Tensor | None = None,
) -> Tensor:
    """Compute what some queries add to the gradient of sinks.

    Equals ``-(torch.exp(sinks[:, None] - lse) * delta).sum((0, 2))`` with ``delta =
    (grad_out * out).sum(-1) - grad_lse``; a query whose lse is -inf adds nothing.

    Args:
        grad_out: ``[batch, heads_q, len_q, head_dim_v]``, the gradient of out.
        out: the same shape, as ``merge_partials`` gave it for all keys and sinks.
        lse: ``[batch, heads_q, len_q]``, the same.
        sinks: ``[heads_q]``, as they were given to it.
        grad_lse: as lse, if it has a gradient.

    Returns:
        ``[heads_q]`` in the dtype of lse.

    Raises:
        InvalidProblemError: the shapes do not fit.
    """
    name = "sink_gradient"
    given = {"grad_out": grad_out, "out": out, "lse": lse}
    if grad_lse is not None:
        given["grad_lse"] = grad_lse
    for label, tensor in given.items():
        check_is_tensor(name, label, tensor)
    for label, tensor in given.items():
        shape = out.shape if label == "grad_out" else out.shape[: lse.dim()]
        is_alike = tensor.device == out.device and tensor.is_floating_point()
        is_right = label == "out" or tensor.shape == shape
        if is_right and is_alike and lse.dim() == out.dim() - 1:
            continue
        raise InvalidProblemError(
            f"[{name}] expected grad_out and out of one shape, and lse and grad_lse "
            f"without its last dimension, all floating-point on {out.device}, got "
            f"{label} {list(tensor.shape)} {tensor.dtype} on {tensor.device} beside "
            f"out {list(out.shape)}; pass what merge_partials returned, and its "
            "gradients"
        )
    delta = (grad_out.to(lse.dtype) * out.to(lse.dtype)).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    weights = torch.exp(_for_rows(name, sinks, lse) - lse)
    weights = weights.masked_fill(lse == -math.inf, 0.0)
    return -(weights * delta).sum((0, 2))


def _for_rows(name: str, sinks: Tensor, lse: Tensor) -> Tensor:
    """Return one number a head beside those of ``[batch, heads_q, len_q]``."""
    check_is_floating(name, "sinks", sinks)
    if lse.dim() != 3 or sinks.shape != lse.shape[1:2] or sinks.device != lse.device:
        raise InvalidProblemError(
            f"[{name}] expected sinks of shape [heads_q] on {lse.device} beside lse of "
            f"shape [batch, heads_q, len_q], got {list(sinks.shape)} on "
            f"{sinks.device} and {list(lse.shape)}; slice or move them"
        )
    return sinks.to(lse.dtype).view(1, -1, 1).expand(lse.shape)
