"""A byte-level GPT small enough to train on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GPT", "Attention", "Shape"]

# Causal attention of q, k, v [batch, heads, length, head_dim].
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
BYTES = 256


@dataclass(frozen=True)
class Shape:
    """The sizes of the model and of its batches."""

    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    length: int = 64
    batch: int = 8

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.heads * self.head_dim


class Block(nn.Module):
    """One transformer layer, normalised before attention and before the MLP."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.attention = attention
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, width] to the same shape."""
        fused = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        # Views of one tensor, transposed: the kernels read them in place.
        q, k, v = (part.transpose(1, 2) for part in fused.unbind(2))
        attended = self.attention(q, k, v)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        hidden: Tensor = self.down(functional.gelu(self.up(self.norm_mlp(x))))
        return x + hidden


class GPT(nn.Module):
    """A GPT over bytes whose attention function is given from outside."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, shape.width)
        self.position = nn.Parameter(0.02 * torch.randn(shape.length, shape.width))
        self.blocks = nn.ModuleList(
            Block(shape, attention) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, BYTES, bias=False)
        self.apply(_initialise)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map [batch, length] byte values to next-byte scores [..., 256].

        positions: int64 [length], where the bytes stand in their texts; None: 0, 1, …
        """
        position = self.position if positions is None else self.position[positions]
        x = self.embed(tokens) + position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def use_attention(self, attention: Attention) -> None:
        """Let every layer compute its attention by another function."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention = attention

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats."""
        return functional.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
