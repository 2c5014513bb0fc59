"""The random bits of dropout, as the kernels draw them, from PyTorch's operators.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2,
3", SC 2011), keyed by the call's seed; `keep_mask` says which counter and which of its
bits belong to a weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["draw_seed", "keep_mask", "keep_scale", "philox", "threshold"]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW_32, _LOW_16 = 0xFFFFFFFF, 0xFFFF


def draw_seed() -> Tensor:
    """Draw a call's 64 bits from PyTorch's default CPU generator.

    ``torch.manual_seed`` decides them, and what restores the generator's state
    (checkpointing) draws the same ones again, whatever device computes.
    """
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")


def threshold(dropout_p: float) -> int:
    """Return T of 65,536: a weight is dropped if its 16 random bits are below T.

    T is the nearest to dropout_p, the larger of two.
    """
    scaled = dropout_p * 65536
    whole = math.floor(scaled)
    return min(whole + (scaled - whole >= 0.5), 65535)


def keep_scale(dropout_p: float) -> float:
    """Return the factor on kept weights, exact for the probability really used."""
    return 65536 / (65536 - threshold(dropout_p))


def keep_mask(
    seed: Tensor,
    dropout_p: float,
    shape: tuple[int, int, int, int],
    first_batch: int = 0,
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
    batch, heads, len_q, len_kv = shape
    # Eight neighboring weights of a lane share a counter: four words of two draws.
    cpu = seed.device  # Whatever torch.set_default_device says.
    column = torch.arange(len_kv, device=cpu)
    group = 4 * (column >> 5) + ((column >> 1) & 3)
    draw = 2 * ((column >> 3) & 3) + (column & 1)
    pair = torch.arange(first_batch * heads, (first_batch + batch) * heads, device=cpu)
    counter = (
        torch.arange(4 * ((len_kv + 31) // 32), device=cpu),
        torch.arange(len_q, device=cpu).unsqueeze(-1),
        pair.view(-1, 1, 1),
        torch.zeros((), dtype=torch.int64, device=cpu),
    )
    words = philox(counter, (seed & _LOW_32, (seed >> 32) & _LOW_32))
    halves = [(word >> shift) & _LOW_16 for word in words for shift in (0, 16)]
    bits = torch.stack(halves, -1)[:, :, group, draw]
    return (bits >= threshold(dropout_p)).view(shape)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random words for each counter.

    Args:
        counter: four int64 tensors below 2**32 that broadcast together.
        key: two 0-dim int64 tensors below 2**32.

    Returns:
        Four int64 tensors below 2**32.
    """
    first, second, third, fourth = counter
    key_0, key_1 = key
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(first, _MULTIPLIERS[0])
        high_1, low_1 = _product(third, _MULTIPLIERS[1])
        first, second = high_1 ^ second ^ key_0, low_1
        third, fourth = high_0 ^ fourth ^ key_1, low_0
        key_0, key_1 = (key_0 + _WEYL[0]) & _LOW_32, (key_1 + _WEYL[1]) & _LOW_32
    return first, second, third, fourth


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Return high and low word of a 32 by 32 bit product, which int64 cannot hold."""
    a_high, a_low = a >> 16, a & _LOW_16
    b_high, b_low = b >> 16, b & _LOW_16
    low, middle, other = a_low * b_low, a_high * b_low, a_low * b_high
    carry = (low >> 16) + (middle & _LOW_16) + (other & _LOW_16)
    high = a_high * b_high + (middle >> 16) + (other >> 16) + (carry >> 16)
    return high, ((carry & _LOW_16) << 16) | (low & _LOW_16)
