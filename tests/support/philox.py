"""The dropout of ``flash_attention``, written again from its definition in NumPy.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
with uint64 products, whereas orchard_ops multiplies in signed halves.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Return the four random words of each counter (four uint64 arrays below 2**32)."""
    first, second, third, fourth = counter
    for turn in range(10):
        key_0, key_1 = (
            np.uint64((k + turn * weyl) & 0xFFFFFFFF) for k, weyl in zip(key, _WEYL)
        )
        product_0, product_1 = _MULTIPLIERS[0] * first, _MULTIPLIERS[1] * third
        first = (product_1 >> _32) ^ second ^ key_0
        second = product_1 & _LOW
        third = (product_0 >> _32) ^ fourth ^ key_1
        fourth = product_0 & _LOW
    return [first, second, third, fourth]


def threshold(dropout_p: float) -> int:
    """Return T: a weight is dropped if its 16 random bits are below T."""
    return min(int(Fraction(dropout_p) * 65536 + Fraction(1, 2)), 65535)


def keep_scale(dropout_p: float) -> float:
    """Return the factor on kept weights, 1 / (1 - T / 65536)."""
    return 1.0 / (1.0 - threshold(dropout_p) / 65536)


def draw_seed(manual_seed: int) -> int:
    """Return the seed of the first call after ``torch.manual_seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(manual_seed)
        return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))


def draws(
    seed: int, shape: tuple[int, int, int, int], first_batch: int = 0
) -> np.ndarray:
    """Return the 16 random bits of each weight, [batch, heads, len_q, len_kv]."""
    batch, heads, len_q, len_kv = shape
    columns = np.arange(len_kv)
    group = 4 * (columns >> 5) + ((columns >> 1) & 3)
    draw = 2 * ((columns >> 3) & 3) + (columns & 1)
    groups = 4 * (-(-len_kv // 32))
    pair = np.arange(first_batch * heads, (first_batch + batch) * heads)
    counter = np.broadcast_arrays(
        np.arange(groups, dtype=np.uint64),
        np.arange(len_q, dtype=np.uint64)[:, None],
        pair.astype(np.uint64)[:, None, None],
        np.uint64(0),
    )
    words = philox(list(counter), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    halves = [word >> np.uint64(shift) for word in words for shift in (0, 16)]
    bits = np.stack(halves) & np.uint64(0xFFFF)
    drawn: np.ndarray = bits[draw, :, :, group]  # [len_kv, pairs, len_q]
    return np.moveaxis(drawn, 0, -1).reshape(batch, heads, len_q, len_kv)


def keep_mask(
    seed: int, dropout_p: float, shape: tuple[int, int, int, int], first_batch: int = 0
) -> Tensor:
    """Return the bool mask [batch, heads, len_q, len_kv] of weights that are kept."""
    kept = draws(seed, shape, first_batch) >= threshold(dropout_p)
    return torch.from_numpy(np.ascontiguousarray(kept))
