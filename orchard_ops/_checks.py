"""Rules for the arguments that no compiled code can check.

Which shapes make an attention problem is decided in C++
(``csrc/attention``), once, for tensors on a device.  ``check_shapes`` states
the same rules for CPU tensors, which never get there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._errors import InvalidProblemError, UnsupportedError

__all__ = ["causal_code", "check_dropout", "check_shapes", "check_tensors", "reject"]

MAX_HEAD_DIM = 256
DEVICES = ("mps", "metalsim", "cpu", "meta")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ALIGNMENTS = {"top-left": 1, "bottom-right": 2}


def check_tensors(name: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check that q, k, v are tensors of one rank (3 or 4), device and dtype."""
    for label, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise InvalidProblemError(
                f"[{name}] expected {label} to be a torch.Tensor, got "
                f"{type(tensor).__name__}; convert it with torch.as_tensor"
            )
    if q.dim() not in (3, 4) or k.dim() != q.dim() or v.dim() != q.dim():
        raise InvalidProblemError(
            f"[{name}] expected q, k and v to have 3 dimensions [batch, len, head_dim] "
            f"or 4 [batch, heads, len, head_dim], got shapes {_shapes(q, k, v)}; add "
            "or merge dimensions with unsqueeze or flatten"
        )
    if not q.device == k.device == v.device:
        raise InvalidProblemError(
            f"[{name}] expected q, k and v on one device, got {q.device}, {k.device} "
            f"and {v.device}; move them with .to(q.device)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise InvalidProblemError(
            f"[{name}] expected q, k and v of one dtype, got {q.dtype}, {k.dtype} and "
            f"{v.dtype}; cast them with .to(q.dtype)"
        )
    if q.device.type not in DEVICES:
        raise UnsupportedError(
            f"[{name}] expected a tensor on mps, metalsim or cpu, got {q.device}; move "
            "it with .to"
        )


def check_shapes(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    """Check 4-D CPU tensors by the rules of ``csrc/attention``'s validate.

    CPU tensors may also be float64, because PyTorch's own operators do the
    work and a model's float64 copy is what results are measured against.
    """
    if q.dtype not in (*DTYPES, torch.float64):
        raise InvalidProblemError(
            f"[{name}] expected float32, float16 or bfloat16, got {q.dtype}; "
            "cast with .to"
        )
    _check_equal(name, "batch", (q.size(0), k.size(0), v.size(0)))
    _check_equal(name, "heads_kv", (k.size(1), v.size(1)))
    _check_equal(name, "len_kv", (k.size(2), v.size(2)))
    _check_equal(name, "head_dim", (q.size(3), k.size(3)))
    for label, value in (("head_dim", q.size(3)), ("head_dim_v", v.size(3))):
        if not 1 <= value <= MAX_HEAD_DIM:
            raise InvalidProblemError(
                f"[{name}] expected {label} from 1 to {MAX_HEAD_DIM}, got {value}; "
                "split wider heads into several"
            )
    heads_q, heads_kv = q.size(1), k.size(1)
    if heads_q != heads_kv and (heads_kv == 0 or heads_q % heads_kv):
        raise InvalidProblemError(
            f"[{name}] expected heads_q to be a multiple of heads_kv, got {heads_q} "
            f"and {heads_kv}; repeat or drop heads"
        )
    if not math.isfinite(scale):
        raise InvalidProblemError(
            f"[{name}] expected a finite scale, got {scale}; leave scale=None for "
            "1/sqrt(head_dim)"
        )


def check_dropout(name: str, dropout_p: float) -> None:
    """Check that the dropout probability lies in [0, 1)."""
    if not 0.0 <= dropout_p < 1.0:
        raise InvalidProblemError(
            f"[{name}] expected dropout_p in [0, 1), got {dropout_p}; 0.0 turns "
            "dropout off"
        )


def causal_code(name: str, is_causal: bool, alignment: str) -> int:
    """Return the operators' number: 0 no mask, 1 top-left, 2 bottom-right."""
    if alignment not in _ALIGNMENTS:
        raise InvalidProblemError(
            f"[{name}] expected causal_alignment to be 'top-left' or 'bottom-right', "
            f"got {alignment!r}"
        )
    return _ALIGNMENTS[alignment] if is_causal else 0


def reject(name: str, argument: str, instead: str | None = None) -> UnsupportedError:
    """Return the error for an argument that a later version will take."""
    hint = instead or "leave it at its default"
    return UnsupportedError(
        f"[{name}] expected {argument} at its default, got a value; this version does "
        f"not implement {argument}: {hint}"
    )


def _check_equal(name: str, what: str, sizes: Sequence[int]) -> None:
    if len(set(sizes)) > 1:
        got = ", ".join(str(size) for size in sizes)
        raise InvalidProblemError(
            f"[{name}] expected one {what} in all tensors that have it, got {got}; "
            "slice or expand them to the same size"
        )


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in tensors)
