"""Predicted time of a kernel on an Apple GPU, from counts of what it does.

A kernel takes as long as the busiest of: instruction issue, the pipe of exponentials,
threadgroup memory, on-core loads, L2 and DRAM.  Costs are cycles of one simdgroup
instruction on one of a core's four schedulers (philipturner/metal-benchmarks).

Issue is divided by an efficiency, one number for each class and element size, which
`calibration` takes from a peer's published times by the same rules.  What is not known
of these GPUs are `Assumptions`.  Everything else is prediction, and what this module
returns must be printed as such.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from .assumptions import NOMINAL, Assumptions
from .chips import Chip
from .kernels import KERNELS, Kernel

__all__ = [
    "Prediction",
    "Work",
    "alu",
    "as_floats",
    "beside",
    "bytes_from_l2",
    "issue_cycles",
    "loads_of_reads",
    "matrix_cycles",
    "multiply_cycles",
    "predict",
]

SHUFFLES_PER_BLOCK = 3  # of 8 rows: maximum, and whether it grew
EXP_CYCLES = 4.0
# Its issue alone: more than this, and the peer, which waits at 8 and more for each
# block, would have to be faster than what it does (docs/benchmarks.md).
BARRIER_CYCLES = 1.0
THREADS_PER_CORE = 384  # resident at the most registers
FIRST_LAUNCH_SECONDS, NEXT_LAUNCH_SECONDS = 5e-6, 1.2e-6

# In cycles of a lane: for the pair of a fragment that is put together from two loads.
ALU_PER_PAIR = 1.5


@dataclass(frozen=True)
class Work:
    """What one launch does; instructions are those of a simdgroup."""

    multiplies: float = 0.0
    """8 by 8 by 8 matrix multiply-accumulates."""
    promoted: float = 0.0
    """Of these, in float32 although elements have 16 bits."""
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
    paged_bytes: float = 0.0
    """Accumulators that a kernel reads and writes for each block; ours never do."""
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


def loads_of_row(length: int, element_bytes: int, rows: int) -> int:
    """Return the loads of a fragment row: `rows` 2 if contracted over, side by side."""
    unit, count = (8, 2) if rows == 2 else (4, 1)
    total, widest = 0, 16 // element_bytes
    while length > 0:
        w = widest
        while w > 1 and unit * w > length:
            w //= 2
        total, length = total + count, length - unit * w
    return total


def loads_of_reads(kernel: str, length: int, element_bytes: int) -> int:
    """Return the loads of a kernel's reads, over a slice of head_dim of a length."""
    row = KERNELS[kernel]
    pairs = row.pairs * loads_of_row(length, element_bytes, 2)
    return pairs + row.singles * loads_of_row(length, element_bytes, 1)


def alu(
    kernel: str,
    scores: float,
    reads: float,
    length: int,
    assumed: Assumptions = NOMINAL,
) -> float:
    """Return the arithmetic of one of our kernels, which the simulator cannot count.

    Args:
        kernel: its name.
        scores: entries of the scores that a lane turns into weights.
        reads: how often it does its reads.
        length: of a simdgroup's slice of head_dim.
        assumed: the point of the model.
    """
    row = KERNELS.get(kernel, Kernel(0, 0, 0))
    rows, pairs = 2 * row.pairs + row.singles, row.pairs * length / 8
    each = assumed.row_cycles * rows + ALU_PER_PAIR * pairs
    return row.alu_per_score * scores + each * reads


def bytes_from_l2(loaded: float, slices: int, assumed: Assumptions = NOMINAL) -> float:
    """Return what L1 does not serve of the bytes that simdgroups load.

    Those that walk the same blocks share lines; of slices of head_dim each has its own.
    """
    return loaded if slices > 1 else loaded / assumed.line_sharing


def as_floats(work: Work) -> Work:
    """Return the work of bfloat16 elements that are float32 in registers.

    So they are on class A (kernels/tile/promoted.h): each is shifted or masked once it
    was loaded.
    """
    per_lane = work.device_bytes / 2 / 32
    return replace(work, promoted=work.multiplies, alu=work.alu + per_lane)


def multiply_cycles(element_bytes: int) -> float:
    """Return a matrix multiply's cycles; 16 would be the arithmetic's own."""
    return 17.0 if element_bytes == 2 else 18.0


def matrix_cycles(work: Work, element_bytes: int) -> float:
    """Return the cycles of all multiplies, on one scheduler."""
    promoted = multiply_cycles(4) - multiply_cycles(2)
    cycles = multiply_cycles(element_bytes) * work.multiplies
    return cycles + (promoted * work.promoted if element_bytes == 2 else 0.0)


def predict(
    work: Work,
    chip: Chip,
    efficiency: float,
    element_bytes: int,
    assumed: Assumptions = NOMINAL,
) -> Prediction:
    """Predict one launch of a kernel on a chip; launch overhead is not in it.

    Args:
        work: what it does.
        chip: where.
        efficiency: the share of the issue rate that kernels reach there.
        element_bytes: of q, k and v.
        assumed: the point of the model.
    """
    core_hz = chip.cores * chip.ghz * 1e9
    matrix = multiply_cycles(element_bytes) * work.multiplies
    issue = issue_cycles(work, chip.family, element_bytes, assumed)
    terms = {
        "issue": issue / (4 * core_hz * efficiency),
        "exponentials": EXP_CYCLES * work.exponentials / (4 * core_hz),
        "threadgroup": work.threadgroup_bytes / (assumed.threadgroup_bytes * core_hz),
        "loads": work.device_bytes / (assumed.core_bytes * core_hz),
        "L2": work.l2_bytes / (assumed.l2_bytes * core_hz),
        "DRAM": work.dram_bytes / (assumed.dram_share * chip.dram_gbs * 1e9),
    }
    binding = max(terms, key=lambda name: terms[name])
    steady = terms[binding]
    seconds = steady * _tail(work, chip)
    return Prediction(seconds, steady, binding, matrix / (4 * core_hz) / seconds, terms)


def beside(work: Work, chip: Chip, assumed: Assumptions = NOMINAL) -> float:
    """Return the seconds of issue that a chip hides beside the matrix multiplies."""
    hides = chip.family != "A"
    cycles = _other_cycles(work, assumed) if hides else 0.0
    return cycles / (4e9 * chip.cores * chip.ghz)


def _other_cycles(work: Work, assumed: Assumptions) -> float:
    return (
        work.alu
        + assumed.shuffle_cycles * work.shuffles
        + work.loads
        + BARRIER_CYCLES * work.barriers
    )


def issue_cycles(
    work: Work, family: str, element_bytes: int, assumed: Assumptions = NOMINAL
) -> float:
    """Return the cycles of one scheduler, if nothing were lost."""
    matrix, others = matrix_cycles(work, element_bytes), _other_cycles(work, assumed)
    if family == "A":
        return matrix + others  # one instruction at a time
    # From class B on others go beside; but a page is fetched, used and written back
    # with barriers between, through L2 and threadgroup memory, so all wait for it.
    cycles_per_byte = 1 / assumed.l2_bytes + 1 / assumed.threadgroup_bytes
    return max(matrix, others) + 4 * cycles_per_byte * work.paged_bytes


def _tail(work: Work, chip: Chip) -> float:
    """Return how much longer whole waves of threadgroups take than their sum."""
    at_once = chip.cores * max(1.0, THREADS_PER_CORE // work.threads)
    waves = -(-work.threadgroups // at_once)
    return waves * at_once / work.threadgroups
