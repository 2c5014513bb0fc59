"""The search for tiles: what is legal, its work by the kernels' text, its score.

Every legal tile is counted from the kernels' text (`tile_work`; tests hold the counts
against the simulator's) and scored by the model on one chip of each class.  Nothing
here was measured on a GPU; nothing here needs PyTorch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

from . import calibration, model
from .assumptions import NOMINAL, Assumptions, scenarios
from .chips import chip_named
from .kernels import KERNELS
from .model import Work

__all__ = [
    "HEAD_DIMS",
    "KERNELS",
    "LEAST_DRAM",
    "LENGTH",
    "NEVER",
    "REGISTERS",
    "SCORED_ON",
    "Candidate",
    "Tile",
    "best",
    "candidates",
    "legal_tiles",
    "registers",
    "score",
    "shipped",
    "spill_from",
    "tile_work",
]

HEAD_DIMS = (64, 96, 128, 192, 256, 512, 576)
SCORED_ON = {"A": "M1 Max", "B": "M4"}
LEAST_DRAM = {"A": "M1", "B": "M3"}  # for its cores
# Registers of a lane that a tile may hold: what the rest (loads in flight, addresses,
# scalars) leaves of 128 on class A; class B allocates them on demand.
REGISTERS = {"A": 70, "B": 100}
THREADGROUP_BYTES = 20 * 1024
MOST_FRAGMENTS = 16  # a lane's two elements of each are bits of a 32-bit mask
LENGTH = 8192
# Loop, ranges, branches: not in the model's predictions.
ALU_PER_TILE = 24.0
# Simdgroups by slices of head_dim: a threadgroup of 128 threads, 192 for three, and
# beyond four, which narrow heads do without (most_slices in tiles.cpp), a tile.
SIMDGROUPS = {1: 4, 2: 4, 3: 6, 4: 4, 6: 6, 8: 8, 9: 9, 12: 12}
NARROW, MOST_SLICES_OF_NARROW = 256, 4
NEVER = 1 << 30
# Of the tiles this near to the best score, the one that holds the fewest registers.
NEAR = 0.002


@dataclass(frozen=True)
class Tile:
    """As in tiles.h: 8x8 fragments of scores, simdgroups, slices of head_dim."""

    rows: int
    cols: int
    simdgroups: int
    slices: int


def slice_of(head_dim: int, tile: Tile) -> int:
    """Return how much of head_dim a simdgroup works on: a multiple of 8."""
    return -(-head_dim // (8 * tile.slices)) * 8


def registers(kernel: str, tile: Tile, head_dim: int, element_bytes: int) -> int:
    """Return the registers of a lane that live through the inner loop."""
    fragments = slice_of(head_dim, tile) // 8
    operand = 1 if element_bytes == 2 else 2
    scores = 2 * tile.rows * tile.cols
    if kernel == "forward":
        return tile.rows * fragments * (2 + operand) + scores
    if kernel == "backward_dq_spilled":  # and a ds for each row, on their way
        return tile.rows * (fragments * 2 + operand)
    if kernel == "backward_dq":  # or backward_dbias, which has the same tiles
        kept = tile.rows * fragments * 2 * operand
        return kept + 2 * scores + max(tile.rows * fragments * 2, scores)
    return tile.cols * 2 * fragments * (2 + operand) + 2 * scores


def barriers(kernel: str, tile: Tile) -> int:
    """Return the barriers of a block: one where two copies of the exchange fit."""
    held = tile.simdgroups * exchanged_fragments(kernel, tile) * 256
    return (1 if 2 * held <= THREADGROUP_BYTES else 2) if held else 0


def exchanged_fragments(kernel: str, tile: Tile) -> int:
    """Return the fragments that slices add up through threadgroup memory."""
    if kernel == "backward_dq_spilled":
        return 0
    both = 1 if kernel == "forward" else 2
    return both * tile.rows * tile.cols if tile.slices > 1 else 0


def shuffles(kernel: str, tile: Tile, element_bytes: int) -> float:
    """Return those of a tile; the votes are on half's range (kernels/tile/unit.h)."""
    if kernel == "forward":
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
    is_spilled = kernel == "backward_dq_spilled"
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
        l2_bytes=model.bytes_from_l2(moved, tile.slices, assumed) + ds_moved,
        threadgroup_bytes=256 * exchanged * (1 + tile.slices),
        dram_bytes=ds_bytes / tile.slices if spills or is_spilled else 0,
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


def divides(
    kernel: str, family: str, tile: Tile, head_dim: int, element_bytes: int
) -> bool:
    """Return whether what a tile reads was written: by whole tiles of backward_dkdv."""
    if kernel != "backward_dq_spilled":
        return True
    written = shipped("backward_dkdv", family, head_dim, element_bytes)
    return written.rows % tile.rows == 0 and written.cols % tile.cols == 0


@cache
def legal_tiles(
    kernel: str, family: str, head_dim: int, element_bytes: int
) -> tuple[Tile, ...]:
    """Return every tile within the class's budgets."""
    found = []
    for rows, cols, slices in itertools.product((1, 2, 4), (1, 2, 4, 8), SIMDGROUPS):
        tile = Tile(rows, cols, SIMDGROUPS[slices], slices)
        held = registers(kernel, tile, head_dim, element_bytes)
        memory = tile.simdgroups * exchanged_fragments(kernel, tile) * 256
        if (
            rows * cols <= MOST_FRAGMENTS
            and (head_dim > NARROW or slices <= MOST_SLICES_OF_NARROW)
            and divides(kernel, family, tile, head_dim, element_bytes)
            and head_dim % (8 * slices) == 0
            and held <= REGISTERS[family]
            and memory <= THREADGROUP_BYTES
        ):
            found.append(tile)
    return tuple(found)


def scored_work(
    kernel: str,
    family: str,
    tile: Tile,
    head_dim: int,
    element_bytes: int,
    spills: bool = False,
    assumed: Assumptions = NOMINAL,
) -> Work:
    """Return a tile's work with what the benchmark's predictions leave out."""
    work = tile_work(kernel, tile, head_dim, element_bytes, LENGTH, spills, assumed)
    held = registers(kernel, tile, head_dim, element_bytes) + assumed.more_registers
    spilled = max(0.0, held - REGISTERS[family])
    each = ALU_PER_TILE + assumed.spill_cycles * spilled
    return replace(work, alu=work.alu + each * count_of_tiles(tile, LENGTH))


def predicted(
    kernel: str,
    chip: str,
    tile: Tile,
    head_dim: int,
    element_bytes: int,
    spills: bool = False,
    assumed: Assumptions = NOMINAL,
) -> tuple[float, str]:
    """Return picoseconds for each score, and the term that binds.

    Besides that term a tile pays for a share of the others, and for its barriers.
    """
    on = chip_named(chip)
    work = scored_work(
        kernel, on.family, tile, head_dim, element_bytes, spills, assumed
    )
    eta = calibration.efficiency(on.family, element_bytes, assumed=assumed)
    found = model.predict(work, on, eta, element_bytes, assumed)
    seconds = found.terms[found.binding]  # the last wave depends on the problem
    others = sum(found.terms.values()) - seconds + model.beside(work, on, assumed)
    waits = assumed.barrier_cycles * work.barriers / (4e9 * on.cores * on.ghz)
    total = seconds + assumed.exposed * others + waits
    return 1e12 * total / LENGTH**2, found.binding


@cache
def score(
    kernel: str,
    chip: str,
    tile: Tile,
    head_dim: int,
    element_bytes: int,
    spills: bool = False,
    assumed: Assumptions = NOMINAL,
) -> float:
    """Return predicted picoseconds for each score, lower is better."""
    found = predicted(kernel, chip, tile, head_dim, element_bytes, spills, assumed)
    return found[0]


@cache
def best(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    assumed: Assumptions = NOMINAL,
) -> tuple[Tile, float]:
    """Return a point's best tile and its score; between equals the smaller one."""
    chip = SCORED_ON[family]
    scored = [
        (score(kernel, chip, tile, head_dim, element_bytes, assumed=assumed), tile)
        for tile in legal_tiles(kernel, family, head_dim, element_bytes)
    ]
    limit = min(value for value, _ in scored) * (1 + NEAR)
    near = [(value, tile) for value, tile in scored if value <= limit]
    value, tile = min(
        near,
        key=lambda pair: (
            registers(kernel, pair[1], head_dim, element_bytes),
            pair[0],
        ),
    )
    return tile, value


def shipped(kernel: str, family: str, head_dim: int, element_bytes: int) -> Tile:
    """Return the tile of the table."""
    return best(kernel, family, head_dim, element_bytes)[0]


@dataclass(frozen=True)
class Candidate:
    """A tile that is worth measuring."""

    tile: Tile
    scenario: str
    """Where it is among the best."""
    binding: str
    """The term of the model that limits it there."""


def candidates(
    kernel: str, family: str, head_dim: int, element_bytes: int, most: int = 16
) -> list[Candidate]:
    """Return legal tiles to measure: the best of each scenario, then the second, ...

    They differ in what limits them, so their times tell the scenarios apart.  The
    tile that ships comes first.

    Args:
        kernel: of KERNELS.
        family: class of GPU.
        head_dim: of q, k and v.
        element_bytes: of an element in registers.
        most: how many; there are fewer if fewer are legal.
    """
    chip, problem = SCORED_ON[family], (head_dim, element_bytes)
    points = scenarios()
    legal = legal_tiles(kernel, family, *problem)
    ranked = {
        name: sorted(
            legal, key=lambda tile: score(kernel, chip, tile, *problem, assumed=point)
        )
        for name, point in points.items()
    }
    in_turn = [(shipped(kernel, family, *problem), "nominal")]
    in_turn += [
        (tiles[i], name) for i in range(len(legal)) for name, tiles in ranked.items()
    ]
    scenario_of: dict[Tile, str] = {}
    for tile, name in in_turn:
        scenario_of.setdefault(tile, name)
    return [
        Candidate(
            tile, name, predicted(kernel, chip, tile, *problem, assumed=points[name])[1]
        )
        for tile, name in itertools.islice(scenario_of.items(), most)
    ]


def row_for(head_dim: int) -> int:
    """Return the head_dim of the row that serves another."""
    return next(dim for dim in HEAD_DIMS if dim >= head_dim)


def is_spill_faster(chip: str, family: str, head_dim: int, element_bytes: int) -> bool:
    """Return whether dk, dv and dq take less time if ds is kept between them."""

    def cost(kernel: str, spills: bool = False) -> float:
        tile = shipped(kernel, family, row_for(head_dim), element_bytes)
        return score(kernel, chip, tile, head_dim, element_bytes, spills)

    kept = cost("backward_dkdv", spills=True) + cost("backward_dq_spilled")
    return kept < cost("backward_dkdv") + cost("backward_dq")


def spill_from(family: str, element_bytes: int) -> int:
    """Return the head_dim from which on ds is better kept than computed twice."""
    found = NEVER
    for head_dim in range(HEAD_DIMS[-1], 0, -8):
        for chip in (SCORED_ON[family], LEAST_DRAM[family]):
            if not is_spill_faster(chip, family, head_dim, element_bytes):
                return found
        found = head_dim
    return found
