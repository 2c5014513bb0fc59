"""What a published peer's kernels do: metal-flash-attention's, read off their text.

The model is calibrated on their published times, so they are counted by the rules
that ours are counted by.  Sources: the parameter tables, precisions and generated
loops of philipturner/metal-flash-attention, "Sources/FlashAttention/Attention".
"""

from __future__ import annotations

from typing import NamedTuple

from .model import SHUFFLES_PER_BLOCK, Work

__all__ = ["peer_work"]


class Block(NamedTuple):
    """One row of its tables: serves head sizes up to the first number."""

    max_head_dim: int
    traversal: int
    """Entries of a row of the scores that a simdgroup, of 8 rows, holds."""
    head: int
    """Dimensions between two barriers on class A."""
    cached: str
    """What stays in registers; the rest is read, or read and written, each block."""


# By class, element size and kernel; from head_dim 64 on.
BLOCKS = {
    ("A", 2, "forward"): (
        Block(96, 128, 32, "q out"),
        Block(128, 128, 32, "q"),
        Block(384, 128, 32, ""),
    ),
    ("A", 4, "forward"): (Block(384, 80, 16, ""),),
    ("B", 2, "forward"): (
        Block(96, 128, 32, "q out"),
        Block(160, 128, 32, "out"),
        Block(224, 128, 32, "q"),
        Block(384, 128, 32, ""),
    ),
    ("B", 4, "forward"): (Block(192, 64, 16, "out"), Block(384, 128, 16, "")),
    ("A", 2, "backward_dq"): (Block(96, 64, 32, "dq"), Block(384, 64, 32, "")),
    ("A", 4, "backward_dq"): (Block(384, 80, 16, ""),),
    ("B", 2, "backward_dq"): (
        Block(80, 64, 8, "q grad_out dq"),
        Block(192, 64, 32, "q dq"),
        Block(384, 128, 32, ""),
    ),
    ("B", 4, "backward_dq"): (Block(192, 64, 32, "q dq"), Block(384, 128, 16, "")),
    ("A", 2, "backward_dkdv"): (Block(96, 64, 32, "dv"), Block(384, 64, 32, "")),
    ("A", 4, "backward_dkdv"): (Block(384, 80, 16, ""),),
    ("B", 2, "backward_dkdv"): (
        Block(80, 32, 16, "v dv dk"),
        Block(144, 128, 16, "dv dk"),
        Block(224, 128, 16, "dv"),
        Block(384, 128, 32, ""),
    ),
    ("B", 4, "backward_dkdv"): (
        Block(64, 32, 16, "v dv dk"),
        Block(128, 128, 16, "dv dk"),
        Block(160, 128, 16, "dv"),
        Block(384, 128, 16, ""),
    ),
}
# Left operands of the products that give scores, and accumulators of the others.
OPERANDS = {
    "forward": ("q",),
    "backward_dq": ("q", "grad_out"),
    "backward_dkdv": ("k", "v"),
}
ACCUMULATORS = {
    "forward": ("out",),
    "backward_dq": ("dq",),
    "backward_dkdv": ("dv", "dk"),
}
# Of a kernel's products, those of grad_out and ds, which it keeps as bfloat16 where
# others are half; before Apple9 it promotes them to float32.
PROMOTED = {"forward": 0, "backward_dq": 2, "backward_dkdv": 3}
# For each score: maximum, multiply-add, exp2 and sum; multiply-add, exp2, multiply-add
# and multiply.  Besides, for 16 bits, the rounding of what becomes an operand.
ALU = {"forward": 4, "backward_dq": 4, "backward_dkdv": 4}
ROUNDED = {"forward": 1, "backward_dq": 1, "backward_dkdv": 2}


def peer_work(
    family: str, kernel: str, element_bytes: int, head_dim: int, length: int
) -> Work:
    """Return the work of one dense head of length x length; 8 rows a simdgroup."""
    rows = BLOCKS[family, element_bytes, kernel]
    block = next(row for row in rows if head_dim <= row.max_head_dim)
    across, deep = block.traversal / 8, head_dim / 8  # fragments
    operands, accumulators = OPERANDS[kernel], ACCUMULATORS[kernel]
    read = sum(name not in block.cached.split() for name in operands)
    paged = sum(name not in block.cached.split() for name in accumulators)
    products = len(operands) + len(accumulators)
    # A right operand is read anew for each multiply: its transpose as two loads of
    # one element, else as one of two.  A row's statistics are loads in dk and dv.
    right = (2 * len(operands) + len(accumulators)) * across * deep
    left = (read + 2 * paged) * deep
    stats = 2 * across if kernel == "backward_dkdv" else 0
    loaded = element_bytes * 64 * (products * across + read) * deep
    paged_bytes = 2 * 4 * 64 * paged * deep
    is_staged = family == "A"
    barriers = -(-head_dim // block.head) * (2 * products + 2 * read + 4 * paged)
    barriers += 4 if kernel == "backward_dkdv" else 0
    rounded = ROUNDED[kernel] if element_bytes == 2 else 0
    promotes = family == "A" and element_bytes == 2
    return Work(
        multiplies=products * across * deep,
        promoted=PROMOTED[kernel] * across * deep if promotes else 0,
        alu=2 * (ALU[kernel] + rounded) * across
        + (2 * deep if kernel == "forward" else 0),  # the correction of out
        shuffles=SHUFFLES_PER_BLOCK + 1 if kernel == "forward" else 0,
        loads=right + left + stats,
        exponentials=2 * across,
        barriers=barriers if is_staged else 0,
        device_bytes=0 if is_staged else loaded,
        l2_bytes=0 if is_staged else loaded / 2,
        threadgroup_bytes=loaded if is_staged else 0,
        paged_bytes=paged_bytes,
    ).times(length**2 / (64 * across))
