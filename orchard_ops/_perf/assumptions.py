"""What the model does not know of Apple's GPUs: each number, its range, and why.

A table of tiles should not hang on any one of them, so the search looks at `scenarios`:
the nominal point, each unknown at each end of its range, and a few corners.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

__all__ = ["NOMINAL", "RANGES", "Assumptions", "Range", "scenarios"]


@dataclass(frozen=True)
class Assumptions:
    """A point of the model; rates are bytes a cycle of one core."""

    line_sharing: float = 2.0
    """Simdgroups that walk the same blocks and are served by one read of L2."""
    core_bytes: float = 64.0
    """Loads of device memory, whatever cache serves them."""
    l2_bytes: float = 32.0
    threadgroup_bytes: float = 64.0
    dram_share: float = 0.8
    """Of the specified bandwidth."""
    row_cycles: float = 4.0
    """Of a lane, for each row that is read: the number of one that is there, times a
    stride of the run in 32 bits, added to an address in 64."""
    shuffle_cycles: float = 2.0
    barrier_cycles: float = 16.0
    """That a simdgroup loses at a barrier, besides issuing it."""
    exposed: float = 0.1
    """Of the time that runs beside what limits a kernel, the share that costs time all
    the same."""
    more_registers: float = 0.0
    """That a compiler needs beside a tile's, more than the budget leaves it."""
    spill_cycles: float = 8.0
    """Of issue, to write and read one register of all lanes, once in each tile."""


NOMINAL = Assumptions()


@dataclass(frozen=True)
class Range:
    """The ends of what is plausible for one unknown, and why."""

    low: float
    high: float
    why: str


# metal-benchmarks: philipturner/metal-benchmarks, README, for M1 and M2.
# Chips and Cheese: "iGPU Cache Setups Compared, Including M1", an M1 of 8 cores.
RANGES = {
    "line_sharing": Range(
        1,
        4,
        "assumed: the four simdgroups of a threadgroup read a line together, or each "
        "for itself; 8 KB of L1 hold 64 lines",
    ),
    "core_bytes": Range(
        48,
        128,
        "metal-benchmarks has 64, Chips and Cheese measured 671 GB/s: 66; nobody "
        "measured class B, where L1 is larger; the margins are assumed",
    ),
    "l2_bytes": Range(
        16,
        48,
        "metal-benchmarks has about 32, Chips and Cheese measured 384 GB/s: 38; not "
        "measured with more cores on an L2, nor on class B; the margins are assumed",
    ),
    "threadgroup_bytes": Range(
        32,
        128,
        "not published; metal-benchmarks calls it narrow; from half of the rate of "
        "loads to the 128 of other vendors",
    ),
    "dram_share": Range(
        0.65,
        0.9,
        "measured by others: 50 of 68 GB/s on M1, 122 of 153 on M5",
    ),
    "row_cycles": Range(
        2,
        12,
        "metal-benchmarks: a multiply 4, a sum in 64 bits 3.3, partly on pipes of "
        "their own; the published times allow 12 (docs/benchmarks.md)",
    ),
    "shuffle_cycles": Range(
        1,
        4,
        "metal-benchmarks measured 2.04; an issue is the least; class B not measured",
    ),
    "barrier_cycles": Range(
        0,
        64,
        "assumed: the published times show no loss; four simdgroups of a scheduler "
        "that wait for each other's 16 cycles lose 64",
    ),
    "exposed": Range(
        0,
        0.4,
        "assumed: the published times of class B fit 0 and 1 almost equally well, and "
        "1 would need an impossible clock (docs/benchmarks.md)",
    ),
    "more_registers": Range(
        0,
        12,
        "assumed: the largest tiles of metal-flash-attention hold 68 registers on "
        "class A and 112 on class B; the budgets are 70 and 100",
    ),
    "spill_cycles": Range(
        2,
        32,
        "a store and a load at the least; at the most its 256 bytes through L2, at 32 "
        "bytes a cycle for all four schedulers",
    ),
}

# Unknowns that may well go wrong together, by the ends that they go to.
CORNERS = {
    "memory slow": {"line_sharing": "low", "l2_bytes": "low", "core_bytes": "low"},
    "memory fast": {"line_sharing": "high", "l2_bytes": "high", "core_bytes": "high"},
    "exchange dear": {"barrier_cycles": "high", "threadgroup_bytes": "low"},
    "little hidden": {"exposed": "high", "row_cycles": "high", "l2_bytes": "low"},
    "registers dear": {"more_registers": "high", "spill_cycles": "high"},
}


def ends(name: str, end: str) -> float:
    """Return one end, ``low`` or ``high``, of an unknown's range."""
    return float(getattr(RANGES[name], end))


def scenarios() -> dict[str, Assumptions]:
    """Return plausible points by name, the nominal first; always the same ones."""
    found = {"nominal": NOMINAL}
    for unknown in fields(Assumptions):
        for end in ("low", "high"):
            value = ends(unknown.name, end)
            if value != getattr(NOMINAL, unknown.name):
                name = f"{unknown.name} {value:g}"
                found[name] = replace(NOMINAL, **{unknown.name: value})
    for name, corner in CORNERS.items():
        values = {unknown: ends(unknown, end) for unknown, end in corner.items()}
        found[name] = replace(NOMINAL, **values)
    return found
