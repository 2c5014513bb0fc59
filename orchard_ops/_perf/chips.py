"""What is published about Apple's GPUs and about a peer's kernels on them.

Nothing here was measured by us.  Sources: core counts, clocks and instruction costs
of M1 and M2 from philipturner/metal-benchmarks; bandwidths from Apple's
specifications; clocks of M3 to M5 as reported by others and uncertain (a clock's error
cancels out of predicted times, because the model is calibrated on times).
"""

from __future__ import annotations

from dataclasses import dataclass

from .kernels import KERNELS

__all__ = [
    "CALIBRATED_ON",
    "CHIPS",
    "PUBLISHED",
    "Chip",
    "Published",
    "chip_named",
]


@dataclass(frozen=True)
class Chip:
    """One GPU."""

    name: str
    family: str
    """``A`` (Apple7, 8), ``B`` (Apple9) or ``C`` (Apple10)."""
    cores: int
    ghz: float
    dram_gbs: float
    """Peak bandwidth in 10^9 bytes a second."""


CHIPS = (
    Chip("M1", "A", 8, 1.278, 68),
    Chip("M1 Pro", "A", 16, 1.296, 200),
    Chip("M1 Max", "A", 32, 1.296, 400),
    Chip("M1 Ultra", "A", 64, 1.296, 800),
    Chip("M2", "A", 10, 1.398, 100),
    Chip("M2 Pro", "A", 19, 1.398, 200),
    Chip("M2 Max", "A", 38, 1.398, 400),
    Chip("M3", "B", 10, 1.4, 100),
    Chip("M3 Pro", "B", 18, 1.4, 150),
    Chip("M3 Max", "B", 40, 1.4, 400),
    Chip("M4", "B", 10, 1.578, 120),
    Chip("M4 Pro", "B", 20, 1.578, 273),
    Chip("M4 Max", "B", 40, 1.578, 546),
)


# Where the published rates were measured.
CALIBRATED_ON = {"A": "M1 Max", "B": "M4", "C": "M4"}


def chip_named(name: str) -> Chip:
    """Return a chip of the table.

    Raises:
        KeyError: no such chip.
    """
    return {chip.name: chip for chip in CHIPS}[name]


@dataclass(frozen=True)
class Published:
    """A rate of metal-flash-attention's, dense, one head, as its author published it.

    Its unit of work is one of (2 D + 5), (3 D + 5), (4 D + 5) instructions for each
    entry of the scores: forward, dq, dk and dv.
    """

    chip: str
    length: int
    element_bytes: int
    head_dim: int
    kernel: str
    giga_instructions: float

    @property
    def ps_per_score(self) -> float:
        """Picoseconds for each entry of the scores."""
        products = KERNELS[self.kernel].products
        return 1000 * (products * self.head_dim + 5) / self.giga_instructions


def _rows(
    chip: str, length: int, element_bytes: int, head_dim: int, *rates: float
) -> list[Published]:
    kernels = ("forward", "backward_dq", "backward_dkdv")
    return [
        Published(chip, length, element_bytes, head_dim, kernel, rate)
        for kernel, rate in zip(kernels, rates)
    ]


# metal-flash-attention, "FlashAttention Variants.xlsx", sheet "Generalization".
PUBLISHED = (
    *_rows("M1 Max", 16384, 2, 64, 4720, 4411, 4163),
    *_rows("M1 Max", 16384, 2, 128, 4595, 4411, 4217),
    *_rows("M1 Max", 16384, 2, 256, 4633, 4444, 4262),
    *_rows("M1 Max", 16384, 4, 64, 3605, 3340, 3311),
    *_rows("M1 Max", 16384, 4, 128, 3640, 3490, 3398),
    *_rows("M1 Max", 16384, 4, 256, 3650, 3203, 3036),
    *_rows("M4", 8192, 2, 64, 1740, 1689, 1622),
    *_rows("M4", 8192, 2, 128, 1663, 1604, 1568),
    *_rows("M4", 8192, 2, 256, 1485, 1469, 1335),
    *_rows("M4", 8192, 4, 64, 1400, 1414, 1373),
    *_rows("M4", 8192, 4, 128, 1339, 1248, 1232),
    *_rows("M4", 8192, 4, 256, 978, 954, 905),
)
