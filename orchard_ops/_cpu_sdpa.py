"""PyTorch's own attention function on CPU tensors, and where it is right.

It is fast and does not keep the scores, so it serves wherever it is known to mean what
``flash_attention`` says, on every supported PyTorch.  Elsewhere plain operators do:

- a mask whose last size is 1 lets it read other memory (2.4);
- causal with a scale of 0 or less gives NaN: -inf is put in before the scale;
- a row without a key gives NaN (before 2.5);
- backward gets a row's maximum and the log of its sum as one number, in which a maximum
  far from 0 rounds the sum away: where all biases of a row are very low or one is very
  high each weight comes out as 1, and a scale above 1 makes scores of hundreds common;
- in bfloat16 (before 2.3) backward rounds on the way, and what should cancel does not:
  with a single key q has a gradient;
- a float mask's gradient, float16 (before 2.3), derivatives of a forward mode, and
  second ones are not there.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from . import _native
from ._errors import UnsupportedError

__all__ = ["sdpa_out"]

_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
_DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
if _TORCH >= (2, 3):
    _DTYPES += (torch.bfloat16,)
_MAX_HEAD_DIM = 256
# Of the scale, which is used as a float32: below this it may be 0 there.
_LEAST, _MOST = torch.finfo(torch.float32).tiny, 1.0
# How far from 0 a row's largest bias may lie: to round there costs a float32 sum of
# weights 2**-17 of itself, less than the tolerance of the tests.
_MOST_BIAS = 128.0
_DENSE = torch.strided
_interpreters = torch._C._functorch.peek_interpreter_stack


def sdpa_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
    is_causal: bool,
    *,
    is_traced: bool = False,
) -> Tensor | None:
    """Return what PyTorch's function gives, or None where plain operators must serve.

    One function, and no loop, because short calls feel each step.

    Args:
        q: a CPU tensor; as ``flash_attention``'s, but with as many heads as k.
        k: of ``flash_attention``, checked or not; so are v and mask.
        v: see k.
        mask: see k.
        scale: None or a number.
        is_causal: aligned at the top left.
        is_traced: whether torch.compile is looking, so that no number can be asked for.
    """
    # Transforms and forward mode want derivatives that it does not have.
    if not is_traced and (forward_ad._current_level >= 0 or _interpreters()):
        return None
    dtype, shape_q, shape_k = q.dtype, q.shape, k.shape
    if len(shape_q) != 4 or len(shape_k) != 4 or shape_k != v.shape:
        return None
    batch, heads, len_q, head_dim = shape_q
    batch_k, heads_k, len_kv, head_dim_k = shape_k
    if batch != batch_k or heads != heads_k or head_dim != head_dim_k:
        return None
    if head_dim > _MAX_HEAD_DIM or q.numel() == 0 or k.numel() == 0:
        return None
    if dtype not in _DTYPES or k.dtype != dtype or v.dtype != dtype:
        return None
    if not (k.is_cpu and v.is_cpu and q.layout == k.layout == v.layout == _DENSE):
        return None
    if scale is not None and not _LEAST <= scale <= _MOST:
        return None
    if mask is not None:
        sizes = tuple(mask.shape)
        if is_causal or is_traced or len(sizes) not in (2, 4) or mask.requires_grad:
            return None
        sizes = (1, 1, *sizes) if len(sizes) == 2 else sizes
        if sizes[0] not in (1, batch) or sizes[1] not in (1, heads):
            return None
        if sizes[2] not in (1, len_q) or sizes[3] != len_kv:
            return None
        look = _native.operator("rows_are_moderate")
        if look is None or mask.dtype not in (torch.bool, dtype):
            return None
        if not look(mask, _MOST_BIAS):
            return None
    out = functional.scaled_dot_product_attention(
        q, k, v, mask, is_causal=is_causal, scale=scale
    )
    if out.requires_grad and not is_traced:
        _refuse_second_derivatives(out)
    return out


def _refuse_second_derivatives(out: Tensor) -> None:
    """Make a second derivative raise an error of ours, not PyTorch's raw one."""
    node = out.grad_fn
    if node is not None and node.name().startswith("ScaledDotProductFlash"):
        node.register_hook(_guard)


def _guard(gradients: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Tie first derivatives that second ones may be wanted of to the error."""
    if not torch.is_grad_enabled():
        return None
    # PyTorch's apply has no types.
    once: Callable[..., Any] = _OnlyOnce.apply
    return tuple(None if g is None else once(g) for g in gradients)


class _OnlyOnce(torch.autograd.Function):
    """The identity, whose derivative is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """Return the gradient."""
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:  # noqa: ARG004
        """Refuse."""
        raise UnsupportedError(
            "[flash_attention] gradients of gradients (double backward) are not "
            "implemented: leave out create_graph=True, or use "
            "torch.nn.functional.scaled_dot_product_attention with "
            "torch.nn.attention's math backend for this call"
        )
