"""A GPT-like block trains through the kernels, on mps or on metalsim."""

from __future__ import annotations

import copy

import torch
from harness import count_calls
from torch import Tensor, nn

import orchard_ops

HEADS, HEAD_DIM, LENGTH, BATCH, TOKENS = 2, 16, 24, 2, 32
WIDTH = HEADS * HEAD_DIM


class Block(nn.Module):
    """Embedding, one causal attention layer, one MLP and a head."""

    def __init__(self, *, with_kernels: bool) -> None:
        """Choose the kernels, or plain operators for the float64 copy."""
        super().__init__()
        self.with_kernels = with_kernels
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return next-token scores."""
        x = self.embed(tokens)
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, HEAD_DIM))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attend = orchard_ops.flash_attention if self.with_kernels else plain_attention
        x = x + self.project(attend(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(x + self.mlp(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy of each next token."""
        scores = self(tokens[:, :-1]).flatten(0, 1)
        return nn.functional.cross_entropy(scores, tokens[:, 1:].flatten())


def plain_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Compute attention by its definition."""
    assert is_causal
    scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5
    keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~keep, -torch.inf), -1) @ v


def test_flash_attention_backward(device: torch.device) -> None:
    """Gradients match float64, and a few steps of training lower the loss."""
    torch.manual_seed(0)
    model = Block(with_kernels=True)
    exact = copy.deepcopy(model).double()
    exact.with_kernels = False
    tokens = torch.randint(TOKENS, (BATCH, LENGTH + 1))
    model, tokens_there = model.to(device), tokens.to(device)

    with count_calls() as calls:
        loss = model.loss(tokens_there)
        loss.backward()
    assert (calls.fwd, calls.bwd, calls.copies) == (1, 1, 0)

    exact.loss(tokens).backward()
    for (name, got), want in zip(model.named_parameters(), exact.parameters()):
        error = (got.grad.cpu().double() - want.grad).abs().max()
        assert error <= 2e-5 * want.grad.abs().max() + 1e-7, name

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(4):
        optimizer.step()
        optimizer.zero_grad()
        last = model.loss(tokens_there)
        last.backward()
    assert float(last.detach()) < 0.9 * float(loss.detach())
