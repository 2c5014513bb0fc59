"""Code that knows nothing of ranks trains inside a block as it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import Fleet, group_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchard_ops import OrchardError, UnsupportedError, distributed, sdpa

HEADS, DIM, TOKENS, LENGTH, STEPS = 2, 16, 29, 75, 3
WIDTH = HEADS * DIM


class Model(nn.Module):
    """One causal layer, whose positions are turned into queries and keys."""

    def __init__(self, dropout: float = 0.1, function: Any = None) -> None:
        """Draw the same weights everywhere; attend by a function, or PyTorch's."""
        super().__init__()
        self.dropout, self.function = dropout, function
        torch.manual_seed(3)
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS)

    def attend(self, x: Tensor, places: Tensor) -> Tensor:
        """Attend as any model of PyTorch does."""
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM)).transpose(1, 3).unbind(2)
        q, k = turned(q, places), turned(k, places)
        function = self.function or F.scaled_dot_product_attention
        out = function(q, k, v, None, self.dropout, True)
        return out.transpose(1, 2).flatten(2)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Return next-token scores; what attention makes is computed twice."""
        x = self.embed(tokens)
        return self.head(x + checkpoint(self.attend, x, places, use_reentrant=False))


def turned(x: Tensor, places: Tensor) -> Tensor:
    """Apply rotary positions, as complex factors."""
    rates = 100.0 ** (-torch.arange(DIM // 2) / (DIM // 2))
    angles = places[:, None] * rates
    pairs = torch.view_as_complex(x.unflatten(-1, (DIM // 2, 2)).contiguous())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs).flatten(-2)


def losses(group: Any = None, is_spread: bool = False) -> list[float]:
    """Train a few steps on this rank's rows; return the whole's losses."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(TOKENS, (2, LENGTH + 1), generator=generator)
    inputs, labels = (
        distributed.shard(x, group, dim=1) for x in (tokens[:, :-1], tokens[:, 1:])
    )
    places = distributed.positions(LENGTH, group)
    found = []
    torch.manual_seed(5)
    for _ in range(STEPS):
        scores = model(inputs, places)
        loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum")
        loss = loss / tokens[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        total = loss.detach()
        if is_spread:
            for each in (total, *(p.grad for p in model.parameters())):
                dist.all_reduce(each, group=group)
        optimizer.step()
        found.append(float(total))
    return found


def losses_of_rows() -> list[float]:
    """Train on three ranks, inside a block."""
    group = group_of((0, 1, 3))
    if dist.get_rank() == 2:
        return []
    with distributed.context_parallel(group, length=LENGTH):
        return losses(group, is_spread=True)


def test_a_model_trains_as_it_does_alone(fleet: Fleet) -> None:
    """With dropout and checkpointing, in PyTorch's own function."""
    with distributed.context_parallel():
        alone = losses()
    assert alone[-1] < alone[0]
    for found in fleet.asked(losses_of_rows)[:2]:
        assert found == pytest.approx(alone, rel=1e-5)


def test_the_block_ends() -> None:
    """PyTorch's function is back, also after an error; there is no second block."""
    x, before = torch.zeros(1, 1, 4, 8), F.scaled_dot_product_attention
    with distributed.context_parallel():
        assert sdpa.is_enabled()
        with pytest.raises(UnsupportedError, match="cross-attention"):
            F.scaled_dot_product_attention(x, x[:, :, :2], x[:, :, :2])
        inner = distributed.context_parallel()
        with pytest.raises(OrchardError, match="no block inside another"):
            inner.__enter__()
    assert F.scaled_dot_product_attention is before
    F.scaled_dot_product_attention(x, x[:, :, :2], x[:, :, :2])
