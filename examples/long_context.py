"""Take training steps on one long sequence, and look at the memory.

A sliding window bounds what each query sees, so the time grows with the length and
not with its square; attention sinks give each head somewhere to look when nothing in
its window matters.  The peak of memory grows with the length either way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from arguments import parse
from torch import nn

import orchard_ops

HEADS, HEAD_DIM, WINDOW = 1, 64, 128


def held_bytes(device: torch.device) -> int:
    """Return what a step held: its peak on metalsim, 0 on the CPU, which counts none.

    PyTorch keeps no peak for mps; what its driver has allocated is near it.
    """
    if device.type == "metalsim":
        return orchard_ops.sim.memory().peak_bytes
    return torch.mps.driver_allocated_memory() if device.type == "mps" else 0


def main(argv: Sequence[str] | None = None, length: int = 2048) -> list[int]:
    """Train q, k and v towards a target; return the bytes that each step held."""
    device, steps = parse(__doc__, steps=2, argv=argv)
    torch.manual_seed(0)
    shape = (1, HEADS, length, HEAD_DIM)
    q, k, v = (nn.Parameter(torch.randn(shape).to(device)) for _ in range(3))
    sinks = nn.Parameter(torch.zeros(HEADS).to(device))
    target = torch.randn(shape).to(device)
    optimizer = torch.optim.Adam([q, k, v, sinks], lr=0.1)
    scores = 4 * HEADS * length**2
    held = []
    for step in range(steps):
        if device.type == "metalsim":
            orchard_ops.sim.reset_peak_memory()
        # 0 bytes of scratch: memory first.  By default a backward may take a bounded
        # scratch, with which it computes the scores once instead of twice.
        with orchard_ops.backward_scratch(0):
            out = orchard_ops.flash_attention(
                q, k, v, is_causal=True, window=(WINDOW, 0), sinks=sinks
            )
            loss = (out - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        held.append(held_bytes(device))
        print(f"step {step}: loss {loss.item():.4f}, {held[-1] / 2**20:.1f} MiB")
    print(f"the scores alone would take {scores / 2**20:.1f} MiB")
    return held


if __name__ == "__main__":
    main()
