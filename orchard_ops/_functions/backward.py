"""The gradients of a call whose output and lse the caller kept, or merged."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._arguments import Arguments
from .._errors import InvalidProblemError, translate
from .run import attend

__all__ = ["gradients"]


def gradients(
    name: str,
    arguments: Arguments,
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_lse: Tensor | None = None,
    *,
    has_mask_gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k and v, and of attn_mask if it is asked for.

    Where the keys are some of those that rows attend to, out and lse may be those of
    all: then the gradients of k and v are the whole ones, and those of q a part of the
    sum over all keys, as ring attention adds it up.

    Args:
        name: the public function, for errors.
        arguments: of the forward, in the operator's form.
        grad_out: as out.
        out: ``[batch, heads_q, len_q, head_dim_v]``.
        lse: ``[batch, heads_q, len_q]`` float32, of out.
        grad_lse: as lse, if lse has a gradient too.
        has_mask_gradient: whether to return that of attn_mask.
    """
    if arguments.q.device.type == "cpu":
        return _by_autograd(
            name, arguments, grad_out, out, lse, grad_lse, has_mask_gradient
        )
    _native.require_loaded(name)
    wanted = [True, True, True, has_mask_gradient, False]
    try:
        dq, dk, dv, dmask, _ = _native.ops.backward(
            grad_out, grad_lse, out, lse, lse.new_empty(0), wanted, *arguments
        )
    except RuntimeError as error:
        raise translate(error, name) from None
    return dq, dk, dv, dmask if has_mask_gradient else None


def _by_autograd(
    name: str,
    arguments: Arguments,
    grad_out: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_lse: Tensor | None,
    has_mask_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return them by the derivative of the call itself, which has these keys only.

    Its weights times ``share`` are those among all keys.  What a score's gradient is
    less than its weight's is a number for each row, as the gradient of lse is.
    """
    dtype = arguments.q.dtype
    for label, tensor in (("k", arguments.k), ("v", arguments.v)):
        if tensor.dtype != dtype:  # the cast below would hide it
            raise InvalidProblemError(
                f"[{name}] expected {label} in q's {dtype}, got {tensor.dtype}; cast "
                "it with .to"
            )
    if arguments.part is not None:  # gradients of parts are not rounded
        dtype = torch.promote_types(dtype, torch.float32)
    leaves = [t.detach().to(dtype).requires_grad_() for t in arguments[:3]]
    call = arguments._replace(q=leaves[0], k=leaves[1], v=leaves[2], return_lse=True)
    if has_mask_gradient and arguments.attn_mask is not None:
        leaves.append(arguments.attn_mask.detach().requires_grad_())
        call = call._replace(attn_mask=leaves[3])
    with torch.enable_grad():
        own, own_lse = attend(name, call)
    compute = torch.promote_types(out.dtype, torch.float32)
    grad = grad_out.to(compute)
    share = (own_lse - lse).exp().masked_fill(own_lse.isneginf(), 0.0).detach()
    grad_own_lse = (grad * (own.detach().to(compute) - out.to(compute))).sum(-1)
    if grad_lse is not None:
        grad_own_lse = grad_own_lse + grad_lse
    grads = ((grad * share.unsqueeze(-1)).to(own.dtype), share * grad_own_lse)
    found = torch.autograd.grad((own, own_lse), leaves, grads)
    return found[0], found[1], found[2], found[3] if len(found) > 3 else None
