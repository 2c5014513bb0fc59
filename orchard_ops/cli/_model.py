"""Predicted time of a kernel on an Apple GPU, from counts of what it does.

A kernel takes as long as the busiest of: instruction issue, the pipe of exponentials,
threadgroup memory, on-core loads, L2 and DRAM.  Costs are cycles of one simdgroup
instruction on one of a core's four schedulers (philipturner/metal-benchmarks).

Calibration: `efficiency` is what a published kernel's own counts need to give its
published time: metal-flash-attention on the M1 Max for class A, on the M4 for B, at
head_dim 64 (up to 64) and 128 (above).  Everything else is prediction, and what this
module returns must be printed as such.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ._chips import PUBLISHED, Chip, chip_named

__all__ = [
    "Prediction",
    "Work",
    "alu",
    "beside",
    "efficiency",
    "multiply_cycles",
    "peer_ps_per_score",
    "predict",
]

SHUFFLE_CYCLES = 2.0
EXP_CYCLES = 4.0
# Not published: what a simdgroup loses at a threadgroup barrier that others hide.
BARRIER_CYCLES = 16.0
THREADGROUP_BYTES_PER_CYCLE = 64.0  # of a core; not published, as on-core loads
CORE_BYTES_PER_CYCLE = 64.0
L2_BYTES_PER_CYCLE = 32.0
DRAM_SHARE = 0.8
THREADS_PER_CORE = 384  # resident at the most registers
FIRST_LAUNCH_SECONDS, NEXT_LAUNCH_SECONDS = 5e-6, 1.2e-6

# Cycles for each score besides the matrix multiplies, of the peer's kernels.
PEER_OTHER_CYCLES = {"forward": 9.0, "backward_dq": 12.0, "backward_dkdv": 14.0}
PRODUCTS = {"forward": 2, "backward_dq": 3, "backward_dkdv": 4}
# Read off our kernels' text, in cycles of a lane: arithmetic for each score, addresses,
# and the pair of a fragment that is put together from two loads, of which there are
# so many to a 16-byte load of 16-bit elements (half as many of float32).
ALU_PER_SCORE = {"forward": 6.0, "backward_dkdv": 8.0, "backward_dq": 7.0}
ALU_PER_LOAD = 1.0
ALU_PER_PAIR = 1.5
PAIRS_PER_LOAD = {"forward": 2.0, "backward_dkdv": 4.0, "backward_dq": 8 / 3}
CALIBRATED_ON = {"A": "M1 Max", "B": "M4", "C": "M4"}


@dataclass(frozen=True)
class Work:
    """What one launch does; instructions are those of a simdgroup."""

    multiplies: float = 0.0
    """8 by 8 by 8 matrix multiply-accumulates."""
    alu: float = 0.0
    shuffles: float = 0.0
    loads: float = 0.0
    """Load instructions, device memory."""
    exponentials: float = 0.0
    barriers: float = 0.0
    """Threadgroup barriers, one for each simdgroup that waits."""
    device_bytes: float = 0.0
    """Loaded and stored by lanes, whatever cache serves them."""
    l2_bytes: float = 0.0
    """Of these, what the 8 KB of first-level cache does not serve."""
    threadgroup_bytes: float = 0.0
    dram_bytes: float = 0.0
    """At least: each tensor once."""
    threadgroups: float = 1.0
    threads: float = 128.0
    """Per threadgroup."""

    def times(self, factor: float) -> Work:
        """Return the work of so many of it; a threadgroup keeps its threads."""
        scaled = {f.name: getattr(self, f.name) * factor for f in fields(self)}
        return Work(**{**scaled, "threads": self.threads})


@dataclass(frozen=True)
class Prediction:
    """A predicted time and what decides it."""

    seconds: float
    steady_seconds: float
    """Without the last, partly filled wave of threadgroups."""
    binding: str
    """The largest term."""
    utilisation: float
    """Matrix cycles over all cycles, 1 at the multiply rate that benchmarks reach."""
    terms: dict[str, float] = field(default_factory=dict)
    """Seconds of each term, steady."""


def alu(
    kernel: str, element_bytes: int, scores: float, loads: float, wide_loads: float
) -> float:
    """Return the arithmetic of one of our kernels, which the simulator cannot count.

    Args:
        kernel: its name.
        element_bytes: of q, k and v.
        scores: entries of the scores that a lane turns into weights.
        loads: load instructions.
        wide_loads: of these, loads of fragments.
    """
    pairs = PAIRS_PER_LOAD.get(kernel, 0.0) * 2 / element_bytes * wide_loads
    per_score = ALU_PER_SCORE.get(kernel, 0.0)
    return per_score * scores + ALU_PER_LOAD * loads + ALU_PER_PAIR * pairs


def multiply_cycles(element_bytes: int) -> float:
    """Return a matrix multiply's cycles; 16 would be the arithmetic's own."""
    return 17.0 if element_bytes == 2 else 18.0


def predict(
    work: Work, chip: Chip, kernel: str, element_bytes: int, head_dim: int
) -> Prediction:
    """Predict one launch of a kernel on a chip; launch overhead is not in it."""
    core_hz = chip.cores * chip.ghz * 1e9
    eta = efficiency(chip.family, kernel, element_bytes, head_dim)
    matrix = multiply_cycles(element_bytes) * work.multiplies
    issue = _issue_cycles(work, matrix, chip.family)
    terms = {
        "issue": issue / (4 * core_hz * eta),
        "exponentials": EXP_CYCLES * work.exponentials / (4 * core_hz),
        "threadgroup": work.threadgroup_bytes / (THREADGROUP_BYTES_PER_CYCLE * core_hz),
        "loads": work.device_bytes / (CORE_BYTES_PER_CYCLE * core_hz),
        "L2": work.l2_bytes / (L2_BYTES_PER_CYCLE * core_hz),
        "DRAM": work.dram_bytes / (DRAM_SHARE * chip.dram_gbs * 1e9),
    }
    binding = max(terms, key=lambda name: terms[name])
    steady = terms[binding]
    seconds = steady * _tail(work, chip)
    return Prediction(seconds, steady, binding, matrix / (4 * core_hz) / seconds, terms)


def beside(work: Work, chip: Chip) -> float:
    """Return the seconds of issue that a chip hides beside the matrix multiplies."""
    hides = chip.family != "A"
    return _other_cycles(work) / (4e9 * chip.cores * chip.ghz) if hides else 0.0


def _other_cycles(work: Work) -> float:
    return (
        work.alu
        + SHUFFLE_CYCLES * work.shuffles
        + work.loads
        + BARRIER_CYCLES * work.barriers
    )


def _issue_cycles(work: Work, matrix: float, family: str) -> float:
    others = _other_cycles(work)
    # Class A issues one instruction at a time; from B on arithmetic goes beside.
    return matrix + others if family == "A" else max(matrix, others)


def _tail(work: Work, chip: Chip) -> float:
    """Return how much longer whole waves of threadgroups take than their sum."""
    at_once = chip.cores * max(1.0, THREADS_PER_CORE // work.threads)
    waves = -(-work.threadgroups // at_once)
    return waves * at_once / work.threadgroups


def efficiency(family: str, kernel: str, element_bytes: int, head_dim: int) -> float:
    """Return the share of the issue rate that the peer's kernel of a kind reached."""
    kernel = kernel if kernel in PRODUCTS else _kind(kernel)
    calibrated = 64 if head_dim <= 64 else 128
    chip = chip_named(CALIBRATED_ON[family])
    (row,) = (
        row
        for row in PUBLISHED
        if (row.chip, row.kernel) == (chip.name, kernel)
        and (row.element_bytes, row.head_dim) == (element_bytes, calibrated)
    )
    ideal = _peer_cycles(chip.family, kernel, element_bytes, calibrated)
    return ideal / (0.128 * chip.cores * chip.ghz) / row.ps_per_score


def _kind(kernel: str) -> str:
    """Return the published kernel that another one is calibrated as."""
    return "forward" if kernel in ("decode", "combine") else "backward_dq"


def _peer_cycles(family: str, kernel: str, element_bytes: int, head_dim: int) -> float:
    """Lane-cycles for each score of the peer's kernel, by its own counts."""
    per_product = head_dim * multiply_cycles(element_bytes) / 16
    matrix = PRODUCTS[kernel] * per_product
    others = PEER_OTHER_CYCLES[kernel]
    return matrix + others if family == "A" else max(matrix, others)


def peer_ps_per_score(
    chip: Chip, kernel: str, element_bytes: int, head_dim: int
) -> float:
    """Predict the peer's kernel as ours are: picoseconds for each score.

    At the chip and sizes of the calibration this repeats the published figure; at
    others it tests the model.
    """
    cycles = _peer_cycles(chip.family, kernel, element_bytes, head_dim)
    eta = efficiency(chip.family, kernel, element_bytes, head_dim)
    return cycles / (0.128 * chip.cores * chip.ghz * eta)
