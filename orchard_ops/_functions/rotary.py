"""Rotary position embedding of queries and keys (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotate"]


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, is_interleaved: bool
) -> Tensor:
    """Turn the first ``2 * cos.size(1)`` dimensions of x by its positions' angles.

    Equals, for each pair ``(a, b)`` of dimensions,
    ``(a * cos - b * sin, a * sin + b * cos)``, computed in float32.

    Args:
        x: ``[batch, len, heads, head_dim]``.
        cos: ``[positions, rotary_dim / 2]``.
        sin: as cos.
        positions: ``[batch, len]`` integers, rows of cos and sin; the nearest row for
            those outside.
        is_interleaved: pairs are dimensions 0 and 1, 2 and 3, ...; else dimension i
            of the first half of rotary_dim with dimension i of the second.
    """
    size = 2 * cos.size(1)
    positions = positions.clamp(0, cos.size(0) - 1)
    turned, rest = x[..., :size].float(), x[..., size:]
    c, s = (t.float()[positions].unsqueeze(2) for t in (cos, sin))
    if is_interleaved:
        a, b = turned[..., ::2], turned[..., 1::2]
        result = torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        result = torch.cat([a * c - b * s, a * s + b * c], -1)
    return torch.cat([result.to(x.dtype), rest], -1)
