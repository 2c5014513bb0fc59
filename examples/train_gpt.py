"""Train a small GPT made of PyTorch's own layers, which are not changed.

Inside ``orchard_ops.sdpa.enabled()`` every call of
``F.scaled_dot_product_attention`` goes to the Metal kernels, forward and backward.
``nn.TransformerEncoderLayer`` makes such a call, so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from arguments import parse
from torch import Tensor, nn
from torch.nn import functional as F

import orchard_ops

WIDTH, HEADS, LAYERS, LENGTH, BATCH = 64, 2, 2, 64, 4


class GPT(nn.Module):
    """Predict the next byte of a text."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [batch, length] bytes to [batch, length, 256] logits."""
        # PyTorch's layer wants the mask beside is_causal.  It only passes is_causal
        # on, so the kernels skip what lies above the diagonal and read no mask.
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        mask = mask.to(tokens.device)
        x = self.embed(tokens) + self.position
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(x)


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Train on this file's own text; return the loss of each step."""
    device, steps = parse(__doc__, steps=200, argv=argv)
    torch.manual_seed(0)
    text = torch.tensor(list(Path(__file__).read_bytes()))
    model = GPT().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    with orchard_ops.sdpa.enabled():
        for step in range(steps):
            starts = torch.randint(len(text) - LENGTH - 1, (BATCH,)).tolist()
            batch = torch.stack([text[i : i + LENGTH + 1] for i in starts]).to(device)
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            print(f"step {step}: loss {losses[-1]:.3f}")
    # On a device nothing was left to PyTorch's own attention.
    print("calls that fell back to PyTorch:", orchard_ops.sdpa.fallbacks())
    return losses


if __name__ == "__main__":
    main()
