"""For which calls PyTorch's own forward was measured beside ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import Shape

__all__ = ["Route", "route_of", "route_of_shape"]


@dataclass(frozen=True)
class Route:
    """A class of calls: no mask, no dropout, no gradient, one head size."""

    dtype: str
    head_dim: int
    is_causal: bool
    group: int
    """Heads of q for each of k and v."""
    bits_q: int
    """Of the length: 11 from 1,024 to 2,047."""
    bits_kv: int

    def words(self) -> list[str]:
        """Return what a line of the user's choices says of it."""
        kind = "causal" if self.is_causal else "dense"
        numbers = (self.group, self.bits_q, self.bits_kv)
        return [self.dtype, str(self.head_dim), kind, *map(str, numbers)]

    @classmethod
    def read(cls, words: list[str]) -> Route:
        """Return what ``words`` gave."""
        dtype, head_dim, kind, *numbers = words
        return cls(dtype, int(head_dim), kind == "causal", *map(int, numbers))

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{self.dtype}, head_dim {self.head_dim}"
            f"{', causal' if self.is_causal else ''}, {self.group} query heads a key "
            f"head, lengths {_range(self.bits_q)} and {_range(self.bits_kv)}"
        )


def _range(bits: int) -> str:
    return f"{1 << bits - 1} to {(1 << bits) - 1}"


def route_of_shape(shape: Shape) -> Route:
    """Return the class of a shape."""
    return Route(
        *(shape.dtype, shape.head_dim, shape.is_causal),
        *(shape.heads_q // shape.heads_kv, shape.len_q.bit_length()),
        shape.len_kv.bit_length(),
    )


def route_of(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool
) -> Route | None:
    """Return the class of a call's tensors, None if they are of none."""
    dims = (query.dim(), key.dim(), value.dim())
    if dims != (4, 4, 4) or query.size(3) != value.size(3) or not key.size(1):
        return None
    needs_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (query, key, value)
    )
    if needs_gradient:
        return None
    return Route(
        *(str(query.dtype).rpartition(".")[2], query.size(3), is_causal),
        *(query.size(1) // key.size(1), query.size(2).bit_length()),
        key.size(2).bit_length(),
    )
