"""Learn a relative position bias, as T5 does, with its true gradient.

The bias is a float ``attn_mask`` [1, heads, length, length] made from a small table,
one number for each head and distance.  The kernels add it to the scores, and its
gradient comes out of the backward pass: the table learns.  Here that is all that can
learn which token to look at, because the queries and keys hold no positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from arguments import parse
from torch import Tensor, nn
from torch.nn import functional as F

import orchard_ops

VOCABULARY, HEADS, HEAD_DIM, LENGTH, BATCH = 16, 2, 16, 32, 4
WIDTH = HEADS * HEAD_DIM
BACK = 3  # the task: name the token that stands so many places before


class Model(nn.Module):
    """One layer of attention whose only sense of position is the learned bias."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, VOCABULARY)
        self.table = nn.Embedding(2 * LENGTH - 1, HEADS)  # one row for each distance
        nn.init.zeros_(self.table.weight)

    def bias(self) -> Tensor:
        """Return [1, heads, length, length]: the table's entry of each distance."""
        places = torch.arange(LENGTH, device=self.table.weight.device)
        distance = places[:, None] - places[None, :] + LENGTH - 1
        return self.table(distance).permute(2, 0, 1)[None]

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [batch, length] tokens to logits."""
        qkv = self.qkv(self.embed(tokens)).unflatten(-1, (3, HEADS, HEAD_DIM))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = orchard_ops.flash_attention(q, k, v, attn_mask=self.bias())
        return self.out(attended.transpose(1, 2).flatten(2))


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Train; return the losses."""
    device, steps = parse(__doc__, steps=100, argv=argv)
    torch.manual_seed(0)
    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    losses = []
    for step in range(steps):
        tokens = torch.randint(VOCABULARY, (BATCH, LENGTH)).to(device)
        logits = model(tokens)[:, BACK:]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, :-BACK].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}")
    favourite = model.table.weight.detach().cpu().argmax(0) - (LENGTH - 1)
    print(f"each head looks most at the token {favourite.tolist()} places before")
    return losses


if __name__ == "__main__":
    main()
