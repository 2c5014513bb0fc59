"""Nested tensors of layout torch.jagged, as packed sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import InvalidProblemError, UnsupportedError
from .._tracing import TORCH

__all__ = ["HAS_JAGGED", "Packed", "is_jagged", "nested_like", "packed_of"]

# Before that no public function makes one of values that have a gradient.
HAS_JAGGED = TORCH >= (2, 4)
_TAKES_LONGEST = TORCH >= (2, 5)  # nested_tensor_from_jagged


class Packed(NamedTuple):
    """What nested tensors become, in the operator's form."""

    q: Tensor  # [1, heads_q, total_q, head_dim]
    k: Tensor
    v: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


def is_jagged(tensor: object) -> bool:
    """Say whether it is a nested tensor that lies in one buffer."""
    if not HAS_JAGGED or not isinstance(tensor, Tensor) or not tensor.is_nested:
        return False
    return tensor.layout == torch.jagged


def packed_of(name: str, q: Tensor, k: Tensor, v: Tensor) -> Packed | None:
    """Return jagged q, k and v as packed sequences, None unless all of them are.

    Reads the longest length from the device, once for each structure: PyTorch keeps it.

    Raises:
        InvalidProblemError: their dimensions or sequences do not fit together.
        UnsupportedError: there are holes between the sequences.
    """
    if not (is_jagged(q) and is_jagged(k) and is_jagged(v)):
        return None
    for label, tensor in (("q", q), ("k", k), ("v", v)):
        _check(name, label, tensor, q.dim())
    is_one_batch = q.size(0) == k.size(0) == v.size(0)
    if not is_one_batch or k.size(-2) != v.size(-2):
        raise InvalidProblemError(
            f"[{name}] expected q, k and v of as many sequences, and k and v of the "
            f"same offsets, got {q.shape}, {k.shape} and {v.shape}; make v with k's "
            "offsets"
        )
    return Packed(
        _values(q),
        _values(k),
        _values(v),
        _starts_of(q),
        _starts_of(k),
        _longest_of(q),
        _longest_of(k),
    )


def nested_like(q: Any, values: Tensor) -> Tensor:
    """Return values of ``[1, heads, total, ...]`` as a nested tensor of q's lengths."""
    dim: int = q._ragged_idx
    values = values.squeeze(0) if dim == 2 else values.squeeze(0).squeeze(0)
    known: dict[str, Any] = {"max_seqlen": _longest_of(q)} if _TAKES_LONGEST else {}
    nested: Tensor = torch.nested.nested_tensor_from_jagged(
        values, q.offsets(), jagged_dim=dim, **known
    )
    return nested


def _check(name: str, label: str, tensor: Any, rank: int) -> None:
    if tensor.dim() != rank or rank not in (3, 4) or tensor._ragged_idx != rank - 2:
        raise InvalidProblemError(
            f"[{name}] expected a nested {label} of shape [batch, heads, length, "
            "head_dim], or of three dimensions without heads, got "
            f"{tensor.shape}; the lengths come before the last dimension: transpose it"
        )
    if tensor.lengths() is not None:
        raise UnsupportedError(
            f"[{name}] expected a nested {label} whose sequences lie one after the "
            "other, got one with holes between them; copy it with "
            "torch.nested.nested_tensor(list(tensor.unbind()), layout=torch.jagged)"
        )


def _starts_of(tensor: Any) -> Tensor:
    starts: Tensor = tensor.offsets()
    return starts.to(torch.int32)


def _longest_of(tensor: Any) -> int:
    return int(tensor._max_seqlen)


def _values(tensor: Any) -> Tensor:
    """Return them as ``[1, heads, total, head_dim]``."""
    values: Tensor = tensor.values()
    return values.unsqueeze(0) if values.dim() == 3 else values[None, None]
