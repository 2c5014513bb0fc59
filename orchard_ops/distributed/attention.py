"""Attention of a sequence that is spread over ranks, with its gradients."""

from __future__ import annotations

from typing import Any, Callable, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._arguments.checks import check_flag
from . import _gather, _heads, _ring
from ._call import agreed_plan
from ._layout import Layout
from ._plan import Plan
from ._problem import Kept, OutputGradients
from ._transport import Link

__all__ = ["Method", "context_parallel_attention"]

Method = Literal["auto", "ring", "all_gather", "heads"]
_METHODS: dict[str, Any] = {"ring": _ring, "all_gather": _gather, "heads": _heads}


@overload
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    group: Any = None,
    layout: Layout = "zigzag",
    method: Method = "auto",
    length: int | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    check: bool = True,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    group: Any = None,
    layout: Layout = "zigzag",
    method: Method = "auto",
    length: int | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    check: bool = True,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    group: Any = None,
    layout: Layout = "zigzag",
    method: Method = "auto",
    length: int | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    check: bool = True,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    group: Any = None,
    layout: Layout = "zigzag",
    method: Method = "auto",
    length: int | None = None,
    window: tuple[int, int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    check: bool = True,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax attention of a sequence whose rows are spread over ranks.

    Equals this rank's rows of `flash_attention` with the whole sequence::

        whole = flash_attention(*(unshard(x, length) for x in (q, k, v)), ...)
        out = shard(whole)

    Every rank of the group makes the same call, and backward through it if one does.
    Differentiable in q, k, v, a float attn_mask and sinks, once.  Partial results and
    gradients are float32, whatever the dtype.

    Args:
        q: ``[batch, heads_q, rows, head_dim]``: this rank's rows of the whole, as
            `shard` cuts them; there may be none.
        k: ``[batch, heads_kv, rows, head_dim]``: the same rows; dtype and device of q.
        v: ``[batch, heads_kv, rows, head_dim_v]``: the same rows.
        attn_mask: broadcasts to ``[batch, heads_q, rows, length]``: this rank's rows of
            it, and all columns of the whole.  Its gradient is of these rows: where one
            tensor serves several ranks, their sum is its gradient.
        dropout_p: as in `flash_attention`.  The random numbers follow from one draw
            from the default CPU generator of the group's first rank, and drop the same
            weights as `flash_attention` would there.
        is_causal: let row i of the whole see rows up to its own only.
        scale: as in `flash_attention`.
        group: the torch.distributed process group whose ranks share the sequence; None
            for all.  Without an initialized torch.distributed this process has all.
        layout: which rows a rank has, as `pieces` says.
        method: ``ring``: keys and values travel from rank to rank, the next on its way
            while one is computed with.  ``all_gather``: each rank gets all of them at
            once, and keeps them for backward.  ``heads``: each rank exchanges rows for
            some of the heads, whose numbers the ranks must divide.  ``auto``: the one
            of them that sends the fewest bytes; docs/distributed.md has the rule.
        length: rows of the whole; by default the sum of what the ranks have.
        window: as in `flash_attention`, by positions in the whole.
        softcap: as in `flash_attention`.
        alibi_slopes: as in `flash_attention`; the same on every rank.
        sinks: ``[heads_q]``, as in `flash_attention`; the same on every rank.  Their
            gradient is that of all ranks' rows, on every rank.
        cu_seqlens: ``[sequences + 1]`` int32 on q's device: where the sequences of a
            packed whole begin, of which rows see their own only; batch is 1.  The same
            on every rank, whatever rows it has.
        check: compare arguments between ranks first, by one small message.  Without
            it, and with a length and no dropout, ranks exchange keys and values alone,
            and what they would differ on stays unseen.
        return_lse: return also the log of the sum of exponentials, of this rank's rows.

    Returns:
        ``[batch, heads_q, rows, head_dim_v]`` in q's dtype; with ``return_lse`` a pair
        of that and ``[batch, heads_q, rows]`` float32.

    Raises:
        InvalidProblemError: the arguments do not describe an attention problem, or
            ranks differ: on every rank, before anything is computed.
        UnsupportedError: q and k are of different rows, or the device cannot compute
            a valid problem.
        PeerError: another rank ended, hangs or never made the call; within the group's
            timeout.
        DeviceError: the tensors are on a device whose library is missing.
    """
    name = "context_parallel_attention"
    link = Link(name, group)
    device = q.device if isinstance(q, Tensor) else torch.device("cpu")
    call, plan = agreed_plan(
        name, link, check_flag(name, "check", check), device,
        q=q, k=k, v=v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal,
        scale=scale, layout=layout, method=method, length=length, window=window,
        softcap=softcap, alibi_slopes=alibi_slopes, sinks=sinks, cu_seqlens=cu_seqlens,
        return_lse=return_lse,
    )  # fmt: skip
    mask = call.mask
    if mask is not None and plan.method == "heads":
        mask = mask.expand(-1, -1, call.q.size(2), -1)  # rows are what is exchanged
    apply: Callable[..., Any] = _Attention.apply  # has no types
    out, lse = apply(plan, call.q, call.k, call.v, mask, call.sinks)
    return (out, lse) if return_lse else out


class _Attention(torch.autograd.Function):
    """A method's forward and backward, as PyTorch calls them."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        sinks: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        out, lse, kept = _METHODS[plan.method].forward(plan, q, k, v, mask, sinks)
        ctx.plan, ctx.shape = plan, out.shape
        ctx.mask_kind = None if mask is None else (mask.shape, mask.dtype)
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        plan, kept = ctx.plan, Kept(*ctx.saved_tensors)
        # Ranks exchange these, so that each has them, whatever its own loss needs.
        if grad_out is None:
            grad_out = kept.out.new_zeros(ctx.shape)
        if grad_lse is None and plan.returns_lse:
            grad_lse = kept.lse.new_zeros(ctx.shape[:-1])
        _, *wanted = ctx.needs_input_grad
        grads = OutputGradients(grad_out, grad_lse, wanted[3], wanted[4])
        dq, dk, dv, dmask, dsinks = _METHODS[plan.method].backward(plan, kept, grads)
        if dmask is not None:
            shape, mask_dtype = ctx.mask_kind
            # Of a mask that is one for all heads each rank may have its heads' part.
            dmask = dmask.sum_to_size(shape).to(mask_dtype)
        dtype = kept.q.dtype
        return None, dq.to(dtype), dk.to(dtype), dv.to(dtype), dmask, dsinks
