"""Fine-tune a transformers model with LoRA, its attention on the Metal kernels.

The model is a tiny Llama made from a configuration, so nothing is downloaded; a real
one differs by ``from_pretrained`` in place of the two lines that build it.  Needs
``pip install transformers``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from arguments import parse
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from orchard_ops.integrations import transformers as integration


class LoRA(nn.Module):
    """A linear layer that is kept, and a change of low rank that is learned."""

    def __init__(self, kept: nn.Linear, rank: int = 4) -> None:
        """Start with no change: the second factor is zero."""
        super().__init__()
        self.kept = kept
        self.down = nn.Linear(kept.in_features, rank, bias=False)
        self.up = nn.Linear(rank, kept.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the kept layer gives, and the change on top."""
        return self.kept(x) + self.up(self.down(x))


def tiny_llama() -> LlamaForCausalLM:
    """Return a Llama with random weights, its attention by orchard_ops."""
    integration.register()  # offers attn_implementation="orchard"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,  # shared heads: the kernels do not expand them
        max_position_embeddings=64,
        attn_implementation="orchard",
    )
    return LlamaForCausalLM(config)


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Teach the model one batch by LoRA alone; return the losses."""
    device, steps = parse(__doc__, steps=50, argv=argv)
    torch.manual_seed(0)
    model = tiny_llama()
    model.requires_grad_(False)
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.q_proj = LoRA(attention.q_proj)
        attention.v_proj = LoRA(attention.v_proj)
    model.to(device)
    learned = [p for p in model.parameters() if p.requires_grad]
    total = sum(p.numel() for p in model.parameters())
    print(f"{sum(p.numel() for p in learned)} of {total} parameters learn")

    optimizer = torch.optim.AdamW(learned, lr=2e-2)
    tokens = torch.randint(64, (2, 24)).to(device)
    losses = []
    for step in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
