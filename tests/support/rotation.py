"""Rotary position embedding by its definition."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["turn"]


def turn(x: Tensor, angles: Tensor, style: str) -> Tensor:
    """Rotate pairs of ``[len, heads, head_dim]`` as complex numbers, in float64."""
    size = 2 * angles.size(1)
    part, rest = x[..., :size], x[..., size:]
    if style == "interleaved":
        pairs = part.reshape(*part.shape[:-1], -1, 2)
    else:
        pairs = torch.stack(part.chunk(2, -1), -1)
    factor = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * factor)
    if style == "interleaved":
        return torch.cat([turned.flatten(-2), rest], -1)
    return torch.cat([turned[..., 0], turned[..., 1], rest], -1)
