"""What our kernels that multiply do for each score, read off their text.

What they read and write, the library says (`torch.ops.orchard_ops.kernel_tensors`).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KERNELS", "Kernel"]


@dataclass(frozen=True)
class Kernel:
    """The work of one kernel."""

    products: int
    """Of matrices, as long as head_dim."""
    pairs: int
    """How often it reads a fragment row of a tensor, for 8 columns of scores (of dk and
    dv: 8 rows), as two of its rows side by side, whose elements make the pairs."""
    singles: int
    """... and as one."""
    alu_per_score: float = 0.0
    """Cycles of a lane."""


# A kernel comes after those whose tiles its own must divide (search.py).
KERNELS = {
    "forward": Kernel(products=2, pairs=1, singles=1, alu_per_score=6.0),
    "backward_dkdv": Kernel(products=4, pairs=2, singles=2, alu_per_score=8.0),
    "backward_dq": Kernel(products=3, pairs=2, singles=1, alu_per_score=7.0),
    "backward_dq_spilled": Kernel(products=1, pairs=0, singles=1),
}
