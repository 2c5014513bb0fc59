"""The short way for a call without options, which most are."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native
from ._arguments import dense_arguments
from ._autocast import is_any_region
from ._errors import translate
from ._tracing import is_compiling

__all__ = ["attend"]


def attend(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor | None:
    """Return the output, or None where the long way must look closer.

    What is checked here is what the operator cannot see.  Compilers and subclasses of
    Tensor meet one operator only, ``forward``.
    """
    if is_compiling() or not type(q) is type(k) is type(v) is Tensor:
        return None
    if is_any_region() or not _native.is_loaded("_C"):
        return None
    try:
        out: Tensor | None = torch.ops.orchard_ops.plain.default(
            q, k, v, scale, bool(is_causal), enable_gqa
        )
        return out
    except RuntimeError as error:
        failure = error
    # Python's checks name an argument where the operator's name a number.
    dense_arguments(
        name, q, k, v, None, 0.0, is_causal, scale, enable_gqa,
        causal_alignment="top-left", window=None, softcap=0.0,
        alibi_slopes=None, sinks=None,
    )  # fmt: skip
    raise translate(failure, name)
