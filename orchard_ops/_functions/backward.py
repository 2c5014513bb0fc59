"""The gradients of a call whose output and lse the caller kept, or merged."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._arguments import Arguments
from .._errors import translate
from .run import attend

__all__ = ["gradients"]


def gradients(
    name: str, arguments: Arguments, grad_out: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v.

    Where the keys are some of those that rows attend to, out and lse may be those of
    all: then the gradients of k and v are the whole ones, and those of q a part of the
    sum over all keys, as ring attention adds it up.

    Args:
        name: the public function, for errors.
        arguments: of the forward, in the operator's form.
        grad_out: as out.
        out: ``[batch, heads_q, len_q, head_dim_v]``.
        lse: ``[batch, heads_q, len_q]`` float32, of out.
    """
    if arguments.q.device.type == "cpu":
        return _by_autograd(name, arguments, grad_out, out, lse)
    _native.require_loaded(name)
    wanted = [True, True, True, False, False]
    try:
        dq, dk, dv, _, _ = _native.ops.backward(
            grad_out, None, out, lse, lse.new_empty(0), wanted, *arguments
        )
    except RuntimeError as error:
        raise translate(error, name) from None
    return dq, dk, dv


def _by_autograd(
    name: str, arguments: Arguments, grad_out: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return them by the derivative of the call itself, which has these keys only.

    Its weights times ``share`` are those among all keys.  What a score's gradient is
    less than its weight's is a number for each row, as the gradient of lse is.
    """
    leaves = [t.detach().requires_grad_() for t in arguments[:3]]
    with torch.enable_grad():
        call = arguments._replace(q=leaves[0], k=leaves[1], v=leaves[2])
        own, own_lse = attend(name, call._replace(return_lse=True))
    compute = torch.promote_types(out.dtype, torch.float32)
    grad = grad_out.to(compute)
    share = (own_lse - lse).exp().masked_fill(own_lse.isneginf(), 0.0).detach()
    grad_lse = share * (grad * (own.detach().to(grad.dtype) - out.to(grad.dtype))).sum(
        -1
    )
    grad_own = (grad * share.unsqueeze(-1)).to(own.dtype)
    dq, dk, dv = torch.autograd.grad((own, own_lse), leaves, (grad_own, grad_lse))
    return dq, dk, dv
