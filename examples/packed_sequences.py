"""Train on documents of different lengths without padding them.

The documents lie one behind the other in one tensor, and ``cu_seqlens`` says where
each begins.  ``flash_attention_varlen`` keeps them apart: no query sees a key of
another document, and nothing is computed for padding, because there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from arguments import parse
from torch import Tensor, nn
from torch.nn import functional as F

import orchard_ops

LENGTHS = (5, 31, 17, 3)  # tokens of each document
VOCABULARY, HEADS, HEAD_DIM = 16, 2, 16
WIDTH = HEADS * HEAD_DIM


class Model(nn.Module):
    """One layer of causal attention between an embedding and logits."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
        """Map [total] packed tokens to [total, VOCABULARY] logits."""
        x = self.embed(tokens)
        # Three views [total, heads, head_dim] of one tensor: the kernels take any
        # strides, so nothing is copied.
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(1)
        attended = orchard_ops.flash_attention_varlen(
            q, k, v, cu_seqlens, cu_seqlens, longest, longest, is_causal=True
        )
        return self.out(x + attended.flatten(1))


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Learn to predict the next token of each document; return the losses."""
    device, steps = parse(__doc__, steps=50, argv=argv)
    torch.manual_seed(0)
    documents = [torch.randint(VOCABULARY, (length + 1,)) for length in LENGTHS]
    tokens = torch.cat([document[:-1] for document in documents]).to(device)
    targets = torch.cat([document[1:] for document in documents]).to(device)
    ends = torch.tensor((0, *LENGTHS)).cumsum(0)
    cu_seqlens = ends.to(torch.int32).to(device)  # 0, 5, 36, 53, 56
    padded = len(LENGTHS) * max(LENGTHS)
    print(f"{sum(LENGTHS)} tokens packed; padding would make them {padded}")

    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        loss = F.cross_entropy(model(tokens, cu_seqlens, max(LENGTHS)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
