"""The search for tiles: which are legal, their scores, and what a choice may cost.

Each legal tile is scored by the model at a set of plausible points, on one chip of each
class.  Nothing here was measured on a GPU; nothing here needs PyTorch.
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
from .tiles import (
    THREADGROUP_BYTES,
    Tile,
    count_of_tiles,
    exchanged_bytes,
    registers,
    tile_work,
)

__all__ = [
    "HEAD_DIMS",
    "KERNELS",
    "LEAST_DRAM",
    "LENGTH",
    "NEVER",
    "POINTS",
    "REGISTERS",
    "SCORED_ON",
    "Candidate",
    "Choice",
    "Points",
    "Tile",
    "best",
    "candidates",
    "choices",
    "choose",
    "legal_tiles",
    "losses",
    "registers",
    "row_for",
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
# No range is known well enough to tell losses that are this near to each other.
NEAR_LOSS = 0.01

Points = tuple[tuple[str, Assumptions], ...]
"""Plausible points of the model by name, the nominal first."""
POINTS: Points = tuple(scenarios().items())


def divides(
    kernel: str,
    family: str,
    tile: Tile,
    head_dim: int,
    element_bytes: int,
    points: Points,
) -> bool:
    """Return whether what a tile reads was written: by whole tiles of backward_dkdv."""
    if kernel != "backward_dq_spilled":
        return True
    written = choose("backward_dkdv", family, head_dim, element_bytes, points).tile
    return tile.divides(written)


def simdgroups_of(kernel: str, slices: int) -> int:
    """Return the simdgroups of a threadgroup.

    Slices that decode share barriers, and the parts of a cache differ in length: one
    tile a threadgroup (decode_tile in tiles.cpp).
    """
    return slices if kernel == "decode" and slices > 1 else SIMDGROUPS[slices]


@cache
def legal_tiles(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    points: Points = POINTS,
) -> tuple[Tile, ...]:
    """Return every tile within the class's budgets."""
    found = []
    for rows, cols, slices in itertools.product((1, 2, 4), (1, 2, 4, 8), SIMDGROUPS):
        tile = Tile(rows, cols, simdgroups_of(kernel, slices), slices)
        held = registers(kernel, tile, head_dim, element_bytes)
        if (
            rows * cols <= MOST_FRAGMENTS
            and (kernel != "decode" or rows == 1)
            and (head_dim > NARROW or slices <= MOST_SLICES_OF_NARROW)
            and divides(kernel, family, tile, head_dim, element_bytes, points)
            and head_dim % (8 * slices) == 0
            and held <= REGISTERS[family]
            and exchanged_bytes(kernel, tile) <= THREADGROUP_BYTES
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
def losses(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    points: Points = POINTS,
) -> dict[Tile, dict[str, float]]:
    """Return what each legal tile takes at each point over the best there, less 1."""
    problem, chip = (head_dim, element_bytes), SCORED_ON[family]
    legal = legal_tiles(kernel, family, *problem, points)
    found: dict[Tile, dict[str, float]] = {tile: {} for tile in legal}
    for name, assumed in points:
        scores = [
            score(kernel, chip, tile, *problem, assumed=assumed) for tile in legal
        ]
        for tile, value in zip(legal, scores):
            found[tile][name] = value / min(scores) - 1
    return found


@dataclass(frozen=True)
class Choice:
    """A tile, and what it may cost to have chosen it."""

    tile: Tile
    nominal_loss: float
    worst_loss: float
    worst: str
    """The point at which it is worst."""


@cache
def choices(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    points: Points = POINTS,
) -> tuple[Choice, ...]:
    """Return every legal tile with its losses."""
    nominal = points[0][0]
    return tuple(
        Choice(tile, of[nominal], max(of.values()), max(of, key=lambda name: of[name]))
        for tile, of in losses(kernel, family, head_dim, element_bytes, points).items()
    )


def first_of(
    kernel: str, head_dim: int, element_bytes: int, found: list[Choice]
) -> Choice:
    """Return the best at the nominal point; between equals the smaller one.

    Decoding waits for DRAM, so all tiles are equal, and what the model does not have
    counts: no barriers where that can be, and many keys on their way at once.
    """
    limit = (1 + min(one.nominal_loss for one in found)) * (1 + NEAR) - 1

    def order(one: Choice) -> tuple[float, ...]:
        if kernel == "decode":
            return one.tile.slices, -one.tile.cols
        held = registers(kernel, one.tile, head_dim, element_bytes)
        return held, one.nominal_loss

    return min((one for one in found if one.nominal_loss <= limit), key=order)


def best(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    points: Points = POINTS,
) -> Choice:
    """Return the tile that is best at the nominal point."""
    found = choices(kernel, family, head_dim, element_bytes, points)
    return first_of(kernel, head_dim, element_bytes, [*found])


@cache
def choose(
    kernel: str,
    family: str,
    head_dim: int,
    element_bytes: int,
    points: Points = POINTS,
) -> Choice:
    """Return the tile that ships: the one whose worst loss is the least.

    Between equals the one that is better at the nominal point.
    """
    found = choices(kernel, family, head_dim, element_bytes, points)
    limit = min(one.worst_loss for one in found) + NEAR_LOSS
    near = [one for one in found if one.worst_loss <= limit]
    return first_of(kernel, head_dim, element_bytes, near)


def shipped(kernel: str, family: str, head_dim: int, element_bytes: int) -> Tile:
    """Return the tile of the table."""
    return choose(kernel, family, head_dim, element_bytes).tile


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
    problem, points = (head_dim, element_bytes), dict(POINTS)
    lost = losses(kernel, family, *problem)
    ranked = [
        (name, sorted(lost, key=lambda tile: lost[tile][name])) for name in points
    ]
    scenario_of = {shipped(kernel, family, *problem): "nominal"}
    for place in range(len(lost)):
        for name, tiles in ranked:
            scenario_of.setdefault(tiles[place], name)

    def binding(tile: Tile, name: str) -> str:
        chip = SCORED_ON[family]
        return predicted(kernel, chip, tile, *problem, assumed=points[name])[1]

    return [
        Candidate(tile, name, binding(tile, name))
        for tile, name in itertools.islice(scenario_of.items(), most)
    ]


def row_for(head_dim: int) -> int:
    """Return the head_dim of the row that serves another."""
    return next(dim for dim in HEAD_DIMS if dim >= head_dim)


def is_spill_better(
    family: str, head_dim: int, element_bytes: int, points: Points = POINTS
) -> bool:
    """Return whether keeping ds between dk, dv and dq has the smaller worst loss."""

    def cost(chip: str, assumed: Assumptions, kernel: str, spills: bool) -> float:
        problem = (row_for(head_dim), element_bytes)
        tile = choose(kernel, family, *problem, points).tile
        return score(kernel, chip, tile, head_dim, element_bytes, spills, assumed)

    worst_kept, worst_twice = 0.0, 0.0
    for chip, (_, assumed) in itertools.product(
        (SCORED_ON[family], LEAST_DRAM[family]), points
    ):
        kept = cost(chip, assumed, "backward_dkdv", True)
        kept += cost(chip, assumed, "backward_dq_spilled", False)
        twice = cost(chip, assumed, "backward_dkdv", False)
        twice += cost(chip, assumed, "backward_dq", False)
        worst_kept = max(worst_kept, kept / twice - 1)
        worst_twice = max(worst_twice, twice / kept - 1)
    return worst_kept < worst_twice


def spill_from(family: str, element_bytes: int, points: Points = POINTS) -> int:
    """Return the head_dim from which on ds is better kept than computed twice."""
    found = NEVER
    for head_dim in range(HEAD_DIMS[-1], 0, -8):
        if not is_spill_better(family, head_dim, element_bytes, points):
            return found
        found = head_dim
    return found
