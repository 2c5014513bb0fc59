"""Decode with a paged cache of keys and values, as inference servers do.

The cache is a pool of pages that all sequences share.  A block table says which pages
hold a sequence's keys, so a sequence takes a page when it grows into it, and no
memory is set aside for lengths that it never reaches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from arguments import parse
from torch import Tensor

import orchard_ops

BATCH, HEADS_Q, HEADS_KV, HEAD_DIM = 2, 4, 2, 32
PAGE, PAGES, PAGES_EACH = 8, 8, 4
PROMPTS = (5, 11)  # tokens of each sequence that are in the cache at the start


def projections(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v of new tokens; in a model they come from its layers."""
    q = torch.randn(BATCH, length, HEADS_Q, HEAD_DIM)
    k, v = torch.randn(2, BATCH, length, HEADS_KV, HEAD_DIM)
    return q, k, v


def main(argv: Sequence[str] | None = None) -> float:
    """Decode some tokens; return the largest difference from attention without a cache.

    Each step is checked against ``flash_attention`` over all keys so far.
    """
    device, steps = parse(__doc__, steps=8, argv=argv)
    torch.manual_seed(0)
    k_cache, v_cache = (
        torch.zeros(PAGES, PAGE, HEADS_KV, HEAD_DIM, device=device) for _ in range(2)
    )
    # Any page may serve any sequence; here they take turns.
    block_table = torch.arange(PAGES, dtype=torch.int32).view(PAGES_EACH, BATCH).T
    block_table = block_table.contiguous().to(device)

    _, k, v = projections(max(PROMPTS))
    history = [(k[b, :n], v[b, :n]) for b, n in enumerate(PROMPTS)]
    for b, (keys, values) in enumerate(history):
        for i in range(PROMPTS[b]):
            page = int(block_table[b, i // PAGE])
            k_cache[page, i % PAGE] = keys[i].to(device)
            v_cache[page, i % PAGE] = values[i].to(device)

    lengths = torch.tensor(PROMPTS, dtype=torch.int32)
    worst = 0.0
    for step in range(steps):
        q, k, v = projections(1)
        # Writes the new keys and values behind the old ones, then attends to all.
        out = orchard_ops.flash_attention_with_kvcache(
            *(q.to(device), k_cache, v_cache, k.to(device), v.to(device)),
            cache_seqlens=lengths.to(device),
            block_table=block_table,
        )
        lengths += 1
        for b, old in enumerate(history):
            history[b] = torch.cat([old[0], k[b]]), torch.cat([old[1], v[b]])
            keys, values = (t.transpose(0, 1)[None] for t in history[b])
            query = q[b : b + 1].transpose(1, 2)
            wanted = orchard_ops.flash_attention(query, keys, values)
            error = (out[b].cpu() - wanted[0].transpose(0, 1)).abs().max().item()
            worst = max(worst, error)
        print(f"step {step}: lengths {lengths.tolist()}, difference {worst:.1e}")
    return worst


if __name__ == "__main__":
    main()
