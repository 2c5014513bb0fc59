"""Registers and threadgroup memory that a specialisation's tile takes, by count.

Per lane and in 32-bit registers, as docs/kernels.md counts them: a lane holds two
elements of each 8 by 8 fragment.  Loads in flight and scalars come on top, about 30.
No compiler for Apple's GPUs stands behind these numbers.
"""

from __future__ import annotations

from specialisations import Specialisation

# By class of GPU.  A thread has 128 registers; what the tile leaves of them is for the
# rest.  M1 and M2 keep to 70 (the search takes no more for class A), from M3 on they
# are given out on demand.
TILE_REGISTERS = {"a": 70, "b": 100, "c": 100}
THREADGROUP_BYTES = 20 * 1024  # three threadgroups a core; Metal's limit is 32 KiB

ACCUMULATOR = 2  # two float32


def operand(s: Specialisation) -> int:
    """Registers of a fragment of operands: two of 16 bits share one."""
    return 2 if s["OPERAND_BYTES"] == 4 else 1


def fragments(s: Specialisation, name: str) -> int:
    """8-wide fragments along one simdgroup's slice of a head size."""
    return -(-s[name] // (8 * s["SLICES"]))


def tile_registers(s: Specialisation) -> int:
    """Registers per lane that live through a kernel's inner loop."""
    if s.kernel in ("backward_prepare", "combine"):
        return 0  # one row per simdgroup, no fragments
    levels = 2 if s["ELEM_BYTES"] == 4 else 1  # of the sums of a mask's gradient
    if s.kernel == "backward_dbias_spilled":  # its sums, and what is added
        return levels * ACCUMULATOR + operand(s)
    d, dv = fragments(s, "HEAD_DIM"), fragments(s, "HEAD_DIM_V")
    rows, columns = s["TILE_ROWS"], s["TILE_COLS"]
    scores = rows * columns * ACCUMULATOR
    if s.kernel in ("forward", "decode"):  # out, scores, q
        return rows * dv * ACCUMULATOR + scores + rows * d * operand(s)
    kept = (d + dv) * operand(s)  # q and grad_out, or k and v
    if s.kernel == "backward_dq_spilled":  # dq, and ds of one column
        return rows * (d * ACCUMULATOR + operand(s))
    if s.kernel == "backward_dq":
        return rows * (d * ACCUMULATOR + kept) + 2 * scores
    if s.kernel == "backward_dbias":  # its own sums instead of dq
        return rows * kept + (2 + levels) * scores
    if s.kernel == "backward_dkdv":
        return columns * ((d + dv) * ACCUMULATOR + kept) + 2 * scores
    raise ValueError(f"no count for {s.kernel}: add it here and in docs/kernels.md")


def threadgroup_bytes(s: Specialisation) -> int:
    """Bytes of the exchange in which slices add up their partial scores.

    Twice what one block needs, where that fits.
    """
    if s["SLICES"] == 1 or s.kernel == "backward_dq_spilled":  # slices never meet
        return 0
    both = (
        1 if s.kernel in ("forward", "decode") else 2
    )  # scores, and gradients beside them
    once = s["SIMDGROUPS"] * both * s["TILE_ROWS"] * s["TILE_COLS"] * 64 * 4
    return 2 * once if 2 * once <= THREADGROUP_BYTES else once
