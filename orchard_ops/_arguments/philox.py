"""The seed of dropout's random numbers, and the weights that they keep."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native

__all__ = ["NO_SEED", "draw_seed", "keep_mask"]

# Stands for a seed where arguments are only checked, so that none is drawn.
NO_SEED = torch.zeros((), dtype=torch.int64, device="cpu")


def draw_seed() -> Tensor:
    """Draw a call's 64 bits from PyTorch's default CPU generator.

    ``torch.manual_seed`` decides them, and what restores the generator's state
    (checkpointing) draws the same ones again, whatever device computes.
    """
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")


def keep_mask(
    seed: Tensor, dropout_p: float, shape: tuple[int, ...], first_batch: int = 0
) -> Tensor:
    """Return the weights that dropout keeps.

    Args:
        seed: 0-dim int64 CPU tensor.
        dropout_p: probability of dropping a weight, in [0, 1).
        shape: batch, heads_q, len_q, len_kv.
        first_batch: the number of the first batch entry (or packed sequence).

    Returns:
        Bool CPU tensor of that shape, True where the weight is kept.
    """
    _native.require_loaded("dropout")
    kept: Tensor = _native.ops.keep_mask(seed, dropout_p, shape, first_batch)
    return kept
