"""Tiles: the registers that one holds, and its work, read off the kernels' text.

Tests hold the work against what the simulator counts, and the registers against what
the kernels declare.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import model
from .assumptions import NOMINAL, Assumptions
from .kernels import KERNELS
from .model import Work

__all__ = [
    "THREADGROUP_BYTES",
    "Tile",
    "count_of_tiles",
    "exchanged_bytes",
    "registers",
    "tile_work",
]

THREADGROUP_BYTES = 20 * 1024
# Both have the same walk; that of decoding is over keys that no other tile reads.
FORWARDS = ("forward", "decode")


@dataclass(frozen=True)
class Tile:
    """As in tiles.h: 8x8 fragments of scores, simdgroups, slices of head_dim."""

    rows: int
    cols: int
    simdgroups: int
    slices: int

    def divides(self, other: Tile) -> bool:
        """Return whether whole tiles of this one make up the other."""
        return other.rows % self.rows == 0 and other.cols % self.cols == 0


def slice_of(head_dim: int, tile: Tile) -> int:
    """Return how much of head_dim a simdgroup works on: a multiple of 8."""
    return -(-head_dim // (8 * tile.slices)) * 8


def registers(kernel: str, tile: Tile, head_dim: int, element_bytes: int) -> int:
    """Return the registers of a lane that live through the inner loop."""
    fragments = slice_of(head_dim, tile) // 8
    operand = 1 if element_bytes == 2 else 2
    scores = 2 * tile.rows * tile.cols
    if kernel in FORWARDS:
        return tile.rows * fragments * (2 + operand) + scores
    if kernel == "backward_dq_spilled":  # and a ds for each row, on their way
        return tile.rows * (fragments * 2 + operand)
    if kernel == "backward_dq":  # or backward_dbias, which has the same tiles
        kept = tile.rows * fragments * 2 * operand
        return kept + 2 * scores + max(tile.rows * fragments * 2, scores)
    return tile.cols * 2 * fragments * (2 + operand) + 2 * scores


def barriers(kernel: str, tile: Tile) -> int:
    """Return the barriers of a block: one where two copies of the exchange fit."""
    held = exchanged_bytes(kernel, tile)
    return (1 if 2 * held <= THREADGROUP_BYTES else 2) if held else 0


def exchanged_fragments(kernel: str, tile: Tile) -> int:
    """Return the fragments that slices add up through threadgroup memory."""
    if kernel == "backward_dq_spilled":
        return 0
    both = 1 if kernel in FORWARDS else 2
    return both * tile.rows * tile.cols if tile.slices > 1 else 0


def exchanged_bytes(kernel: str, tile: Tile) -> int:
    """Return the threadgroup memory of one copy of the exchange."""
    return 256 * tile.simdgroups * exchanged_fragments(kernel, tile)


def shuffles(kernel: str, tile: Tile, element_bytes: int) -> float:
    """Return those of a tile; the votes are on half's range (kernels/tile/unit.h)."""
    if kernel in FORWARDS:
        return float(model.SHUFFLES_PER_BLOCK * tile.rows)
    if element_bytes != 2:
        return 0
    return tile.cols / 32 if kernel == "backward_dq_spilled" else 1


def tile_work(
    kernel: str,
    tile: Tile,
    head_dim: int,
    element_bytes: int,
    length: int,
    spills: bool = False,
    assumed: Assumptions = NOMINAL,
) -> Work:
    """Return the work of one dense head of length x length, without what is not N^2.

    Args:
        kernel: of KERNELS.
        tile: its tile.
        head_dim: of q, k and v.
        element_bytes: of q, k and v.
        length: of the sequences.
        spills: of backward_dkdv, whether it leaves ds to backward_dq_spilled.
        assumed: the point of the model.
    """
    part = slice_of(head_dim, tile)
    fragments, visited = part // 8, tile.rows * tile.cols
    is_dkdv = kernel == "backward_dkdv"
    is_spilled, is_decode = kernel == "backward_dq_spilled", kernel == "decode"
    reads = tile.rows if is_dkdv else tile.cols
    loads = reads * model.loads_of_reads(kernel, part, element_bytes)
    # Of a row's statistics; of kept fragments.
    loads += 2 * tile.rows if is_dkdv else visited if is_spilled else 0
    exchanged = exchanged_fragments(kernel, tile)
    walked = (tile.cols if is_dkdv else tile.rows) * 8
    across = walked * tile.simdgroups // tile.slices
    tiles = count_of_tiles(tile, length)
    moved = pieces(kernel, tile) * element_bytes * 8 * part
    # Of the gradients of the scores, which slices share the writing of.
    ds_bytes = element_bytes * 64 * visited
    stores = visited / tile.slices if spills else 0
    ds_moved = ds_bytes if is_spilled else stores * element_bytes * 64
    work = Work(
        multiplies=KERNELS[kernel].products * visited * fragments,
        alu=model.alu(kernel, 2 * visited, reads, part, assumed),
        shuffles=shuffles(kernel, tile, element_bytes),
        loads=loads + stores + exchanged * (1 + tile.slices),
        exponentials=0 if is_spilled else 2 * visited,
        barriers=barriers(kernel, tile),
        device_bytes=moved + ds_moved,
        l2_bytes=ds_moved
        + (moved if is_decode else model.bytes_from_l2(moved, tile.slices, assumed)),
        threadgroup_bytes=256 * exchanged * (1 + tile.slices),
        # A step of decoding reads a cache once, for all its rows.
        dram_bytes=moved
        if is_decode
        else ds_bytes / tile.slices
        if spills or is_spilled
        else 0,
        threadgroups=-(-length // across) / tiles,
        threads=32 * tile.simdgroups,
    )
    return work.times(tiles)


def count_of_tiles(tile: Tile, length: int) -> float:
    """Return the tiles of a dense head, each counted for every slice of head_dim."""
    return (length / 8) ** 2 / (tile.rows * tile.cols) * tile.slices


def pieces(kernel: str, tile: Tile) -> int:
    """Return how many 8-row pieces of a tensor a visited tile loads."""
    each = int(KERNELS[kernel].pairs + KERNELS[kernel].singles)
    return each * (tile.rows if kernel == "backward_dkdv" else tile.cols)
