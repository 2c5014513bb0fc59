"""The entries below ``flash_attn``'s functions, which ring attention is built on.

Their signatures are those of Dao's versions 2.7 to 2.8.3.  They know nothing of
autograd: a backward gets the output and the lse, which may be those of more keys than
its own, and writes into dq, dk and dv.  ``rng_state`` is dropout's seed and a zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._arguments import Arguments, dense_arguments, packed_arguments
from .._arguments.checks import check_is_tensor, check_number, check_rank
from .._errors import InvalidProblemError, UnsupportedError
from .._functions.backward import gradients
from .._functions.run import attend
from ._options import cap_of, window_of
from ._paged import gather_pages
from ._probabilities import signed_probabilities

__all__ = [
    "_flash_attn_backward",
    "_flash_attn_forward",
    "_flash_attn_varlen_backward",
    "_flash_attn_varlen_forward",
]

Results = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.no_grad()
def _flash_attn_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    return_softmax: bool,
) -> Results:
    """Return ``(out, softmax_lse, S_dmask, rng_state)`` of `flash_attn_func`'s call.

    Args:
        q: ``[batch, len_q, heads_q, head_dim]``; the others as there.
        k: see there.
        v: see there.
        dropout_p: see there.
        softmax_scale: see there.
        causal: see there.
        window_size_left: the first of window_size.
        window_size_right: the second.
        softcap: see there.
        alibi_slopes: see there.
        return_softmax: compute S_dmask, which is empty otherwise and without dropout.
    """
    name = "_flash_attn_forward"
    window = (window_size_left, window_size_right)
    arguments = _dense(
        name, q, k, v, dropout_p, softmax_scale, causal, window, softcap, alibi_slopes,
        None,
    )  # fmt: skip
    out, lse = attend(name, arguments)
    return (out.transpose(1, 2), lse, *_of_dropout(arguments, return_softmax))


@torch.no_grad()
def _flash_attn_varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
    block_table: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    zero_tensors: bool = False,  # noqa: ARG001 - rows of no sequence always are
) -> Results:
    """Return ``(out, softmax_lse, S_dmask, rng_state)`` of packed sequences.

    Args:
        q: ``[total_q, heads_q, head_dim]``; the others as in `flash_attn_varlen_func`.
        k: see there.
        v: see there.
        cu_seqlens_q: see there.
        cu_seqlens_k: see there.
        max_seqlen_q: see there.
        max_seqlen_k: see there.
        dropout_p: see there.
        softmax_scale: see there.
        causal: see there.
        window_size_left: the first of window_size.
        window_size_right: the second.
        softcap: see there.
        alibi_slopes: see there.
        return_softmax: compute S_dmask, which is empty otherwise and without dropout.
        block_table: see there.
        leftpad_k: refused.
        seqused_k: refused.
        zero_tensors: no effect.
    """
    name = "_flash_attn_varlen_forward"
    for label, given in (("leftpad_k", leftpad_k), ("seqused_k", seqused_k)):
        if given is not None:
            raise UnsupportedError(
                f"[{name}] expected no {label}, got a tensor; say where sequences "
                "begin and end with cu_seqlens_k"
            )
    if block_table is not None:
        check_rank(name, "batch, len", 4, k=k, v=v)
        k, v = gather_pages(name, (k, v), cu_seqlens_k, block_table)
    window = (window_size_left, window_size_right)
    arguments = _packed(
        name, q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k),
        dropout_p, softmax_scale, causal, window, softcap, alibi_slopes, None,
    )  # fmt: skip
    out, lse = attend(name, arguments)
    out, lse = out.squeeze(0).transpose(0, 1), lse.squeeze(0)
    return (out, lse, *_of_dropout(arguments, return_softmax))


@torch.no_grad()
def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,  # noqa: ARG001 - it always is
    rng_state: Tensor | None = None,
) -> Tensor:
    """Write the gradients of q, k and v.

    Args:
        dout: the gradient of out.
        q: as in the forward; so are the others that it has.
        k: see there.
        v: see there.
        out: ``[batch, len_q, heads_q, head_dim_v]``, over these keys or more.
        softmax_lse: ``[batch, heads_q, len_q]`` float32, of out.
        dq: written, shape of q; None where nobody asks.
        dk: as dq, of k.
        dv: as dq, of v.
        dropout_p: see there.
        softmax_scale: see there.
        causal: see there.
        window_size_left: see there.
        window_size_right: see there.
        softcap: see there.
        alibi_slopes: see there.
        deterministic: no effect.
        rng_state: the forward's, needed with dropout.

    Returns:
        ``[batch, heads_q, len_q]`` float32: for each row the sum of dout * out.
    """
    name = "_flash_attn_backward"
    window = (window_size_left, window_size_right)
    arguments = _dense(
        name, q, k, v, dropout_p, softmax_scale, causal, window, softcap, alibi_slopes,
        _seed_of(name, dropout_p, rng_state),
    )  # fmt: skip
    written = {"dq": dq, "dk": dk, "dv": dv}
    _check_backward(name, (q, k, v), dout, out, softmax_lse, written)
    dout, out = dout.transpose(1, 2), out.transpose(1, 2)
    found = gradients(name, arguments, dout, out, softmax_lse)
    for place, gradient in zip(written.values(), found[:3]):
        if place is not None:
            place.copy_(gradient.transpose(1, 2))
    return (dout.float() * out.float()).sum(-1)


@torch.no_grad()
def _flash_attn_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,  # noqa: ARG001 - it always is
    rng_state: Tensor | None = None,
    zero_tensors: bool = False,  # noqa: ARG001 - rows of no sequence always are
) -> Tensor:
    """Write the gradients of packed q, k and v, as `_flash_attn_backward` does.

    Args:
        dout: the gradient of out.
        q: as in the forward; so are the others that it has.
        k: see there.
        v: see there.
        out: ``[total_q, heads_q, head_dim_v]``, over these keys or more.
        softmax_lse: ``[heads_q, total_q]`` float32, of out.
        dq: written, shape of q; None where nobody asks.
        dk: as dq, of k.
        dv: as dq, of v.
        cu_seqlens_q: see there.
        cu_seqlens_k: see there.
        max_seqlen_q: see there.
        max_seqlen_k: see there.
        dropout_p: see there.
        softmax_scale: see there.
        causal: see there.
        window_size_left: see there.
        window_size_right: see there.
        softcap: see there.
        alibi_slopes: see there.
        deterministic: no effect.
        rng_state: the forward's, needed with dropout.
        zero_tensors: no effect.

    Returns:
        ``[heads_q, total_q]`` float32: for each row the sum of dout * out.
    """
    name = "_flash_attn_varlen_backward"
    window = (window_size_left, window_size_right)
    arguments = _packed(
        name, q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k),
        dropout_p, softmax_scale, causal, window, softcap, alibi_slopes,
        _seed_of(name, dropout_p, rng_state),
    )  # fmt: skip
    written = {"dq": dq, "dk": dk, "dv": dv}
    _check_backward(name, (q, k, v), dout, out, softmax_lse, written)
    dout, out = dout.transpose(0, 1), out.transpose(0, 1)
    found = gradients(name, arguments, dout[None], out[None], softmax_lse.unsqueeze(0))
    for place, gradient in zip(written.values(), found[:3]):
        if place is not None:
            place.copy_(gradient.squeeze(0).transpose(0, 1))
    return (dout.float() * out.float()).sum(-1)


def _dense(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
    seed: Tensor | None,
) -> Arguments:
    check_rank(name, "batch, len", 4, q=q, k=k, v=v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return dense_arguments(
        name, q, k, v, None, dropout_p, causal, softmax_scale,
        causal_alignment="bottom-right", window=window_of(name, window),
        softcap=cap_of(name, softcap), alibi_slopes=alibi_slopes, return_lse=True,
        seed=seed,
    )  # fmt: skip


def _packed(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: tuple[Tensor, Tensor],
    max_seqlens: tuple[int, int],
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
    seed: Tensor | None,
) -> Arguments:
    return packed_arguments(
        name, q, k, v, cu_seqlens, max_seqlens, dropout_p, causal, softmax_scale,
        causal_alignment="bottom-right", window=window_of(name, window),
        softcap=cap_of(name, softcap), alibi_slopes=alibi_slopes, sinks=None,
        return_lse=True, seed=seed,
    )  # fmt: skip


def _of_dropout(arguments: Arguments, is_asked: bool) -> tuple[Tensor, Tensor]:
    """Return S_dmask and rng_state."""
    nothing = arguments.q.new_empty(0)
    if arguments.seed is None:
        return nothing, torch.zeros(2, dtype=torch.int64, device="cpu")
    state = torch.stack([arguments.seed, torch.zeros_like(arguments.seed)])
    return signed_probabilities(arguments) if is_asked else nothing, state


def _check_backward(
    name: str,
    inputs: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    written: dict[str, Tensor | None],
) -> None:
    """Check what a backward has beside the forward's arguments."""
    q, _, v = inputs
    of_out = [*q.shape[:-1], v.size(-1)]
    of_lse = [*q.shape[:-3], q.size(-2), q.size(-3)]
    expected = [("dout", dout, of_out), ("out", out, of_out)]
    expected.append(("softmax_lse", softmax_lse, of_lse))
    for (label, place), tensor in zip(written.items(), inputs):
        if place is not None:
            expected.append((label, place, list(tensor.shape)))
    for label, tensor, shape in expected:
        check_is_tensor(name, label, tensor)
        # A gradient is written: no two of its elements may be the same number.
        is_apart = label not in written or not _has_shared_elements(tensor)
        is_beside = tensor.device == q.device and tensor.is_floating_point()
        if list(tensor.shape) == shape and is_beside and is_apart:
            continue
        raise InvalidProblemError(
            f"[{name}] expected {label} of shape {shape}, floating-point, on "
            f"{q.device}, got {list(tensor.shape)}, {tensor.dtype}, on "
            f"{tensor.device}; pass what the forward returned, and memory of its "
            "inputs' shapes"
        )


def _has_shared_elements(tensor: Tensor) -> bool:
    """Say whether a dimension repeats the same memory."""
    return any(
        size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride())
    )


def _seed_of(name: str, dropout_p: float, rng_state: Tensor | None) -> Tensor | None:
    if check_number(name, "dropout_p", dropout_p) == 0.0:
        return None
    if rng_state is None:
        raise InvalidProblemError(
            f"[{name}] expected rng_state with dropout_p={dropout_p}, got None; pass "
            "the one that the forward returned"
        )
    check_is_tensor(name, "rng_state", rng_state)
    if rng_state.dtype != torch.int64 or rng_state.shape != (2,) or rng_state.is_meta:
        raise InvalidProblemError(
            f"[{name}] expected rng_state of shape [2], int64, got {rng_state.dtype} "
            f"of shape {list(rng_state.shape)} on {rng_state.device}; pass the one "
            "that the forward returned"
        )
    return rng_state[0].cpu()
