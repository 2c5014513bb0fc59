"""The short way for a call without options, which most are."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native
from ._arguments import dense_arguments
from ._autocast import is_any_region
from ._cpu_sdpa import sdpa_out
from ._errors import translate
from ._tracing import is_compiling

__all__ = ["attend"]

_MASKS = (type(None), Tensor, torch.nn.Parameter)
_SCALES = (type(None), float, int)


def attend(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor | None:
    """Return the output, or None where the long way must look closer.

    What is checked here is what neither the operator nor PyTorch's function on the CPU
    can see.  Compilers and subclasses of
    Tensor meet one operator only, ``forward``.
    """
    if is_compiling() or not type(q) is type(k) is type(v) is Tensor or is_any_region():
        return None
    if type(attn_mask) not in _MASKS or type(scale) not in _SCALES:
        return None
    if type(is_causal) is not bool or type(enable_gqa) is not bool:
        return None
    try:
        if q.is_cpu:
            return sdpa_out(q, k, v, attn_mask, scale, is_causal)
        operator = _native.operator("plain")
        if operator is None:
            return None
        out: Tensor | None = operator(q, k, v, attn_mask, scale, is_causal, enable_gqa)
        return out
    except RuntimeError as error:
        failure = error
    # Python's checks name an argument where the operator's name a number.
    dense_arguments(
        name, q, k, v, attn_mask, 0.0, is_causal, scale, enable_gqa,
        causal_alignment="top-left", window=None, softcap=0.0,
        alibi_slopes=None, sinks=None,
    )  # fmt: skip
    raise translate(failure, name)
