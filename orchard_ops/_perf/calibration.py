"""The share of the issue rate that kernels reach, fitted to a peer's published times.

One number for each class of GPU and element size: the least squares of the logarithms
of predicted over published time, over all of the peer's kernels and head sizes.
"""

from __future__ import annotations

import math
from functools import cache

from . import model
from .assumptions import NOMINAL, Assumptions
from .chips import CALIBRATED_ON, PUBLISHED, Chip, Published, chip_named
from .peer import peer_work

__all__ = ["efficiency", "peer_ps_per_score"]


def _ideal_ps_per_score(chip: Chip, row: Published, assumed: Assumptions) -> float:
    """Return what the peer's kernel would take if nothing were lost."""
    work = peer_work(chip.family, row.kernel, row.element_bytes, row.head_dim, 1)
    cycles = model.issue_cycles(work, chip.family, row.element_bytes, assumed)
    return cycles / (4e-3 * chip.cores * chip.ghz)


@cache
def efficiency(
    family: str,
    element_bytes: int,
    without: int | None = None,
    assumed: Assumptions = NOMINAL,
) -> float:
    """Return the share of the issue rate that kernels reach on a class of GPU.

    Args:
        family: of the GPU; C is taken to be as B.
        element_bytes: of q, k and v.
        without: a head_dim to leave out of the fit, to test it.
        assumed: the point of the model, at which the peer's work is counted too.
    """
    chip = chip_named(CALIBRATED_ON[family])
    logs = [
        math.log(_ideal_ps_per_score(chip, row, assumed) / row.ps_per_score)
        for row in PUBLISHED
        if row.chip == chip.name
        and row.element_bytes == element_bytes
        and row.head_dim != without
    ]
    return math.exp(sum(logs) / len(logs))


def peer_ps_per_score(row: Published, without: int | None = None) -> float:
    """Predict a published time as ours are: picoseconds for each score.

    Args:
        row: the peer's kernel.
        without: a head_dim that the calibration does not see.
    """
    chip = chip_named(row.chip)
    eta = efficiency(chip.family, row.element_bytes, without)
    return _ideal_ps_per_score(chip, row, NOMINAL) / eta
