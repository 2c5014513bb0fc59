"""Forward and backward on every device of this machine, against float64."""

from __future__ import annotations

import sys

import torch
from torch.nn.functional import scaled_dot_product_attention

import orchard_ops


def results(parts: list[torch.Tensor], attention) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    """Return the output and the gradients of q, k and v, in float64."""
    q, k, v = (part.detach().requires_grad_() for part in parts[:3])
    out = attention(q, k, v, is_causal=True)
    gradients = torch.autograd.grad(out, (q, k, v), parts[3])
    return [got.detach().cpu().double() for got in (out, *gradients)]


def main() -> None:
    """Fail if a device computes something else than PyTorch's definition."""
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    elif sys.platform == "darwin":
        print("mps: no GPU is available to this process, so it is not tested")
    else:
        orchard_ops.sim.enable()
        devices.append("metalsim")
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 2, 33, 24, generator=generator) for _ in range(4)]
    exact = results([part.double() for part in parts], scaled_dot_product_attention)
    for device in devices:
        placed = [part.to(device) for part in parts]
        got = results(placed, orchard_ops.flash_attention)
        error = max(float((a - b).abs().max()) for a, b in zip(got, exact))
        print(f"{device}: largest error {error:.1e}, PyTorch {torch.__version__}")
        if not error < 1e-5:
            raise SystemExit(f"{device} is wrong")


if __name__ == "__main__":
    main()
