"""The search for tiles: its points, and the tiles that are worth measuring."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest

from orchard_ops._perf import search
from orchard_ops._perf.assumptions import NOMINAL, RANGES, Assumptions, scenarios

CLASSES = [*itertools.product(search.KERNELS, "AB", search.HEAD_DIMS, (2, 4))]


def test_every_unknown_has_a_range_and_its_reason() -> None:
    """The nominal value lies within the range, and the ends are plausible points."""
    assert set(RANGES) == {unknown.name for unknown in fields(Assumptions)}
    found = scenarios()
    assert next(iter(found.values())) == NOMINAL
    assert len(set(found.values())) == len(found)
    for name, row in RANGES.items():
        assert row.low <= getattr(NOMINAL, name) <= row.high, name
        assert row.low < row.high
        assert row.why
        ends = {row.low, row.high} - {getattr(NOMINAL, name)}
        assert {replace(NOMINAL, **{name: end}) for end in ends} <= {*found.values()}


def test_candidates_are_legal_and_differ() -> None:
    """Ten to sixteen, or all that are legal; the one that ships is the first."""
    for problem in CLASSES:
        legal = search.legal_tiles(*problem)
        tiles = [found.tile for found in search.candidates(*problem)]
        assert len(tiles) == len(set(tiles)) == min(16, len(legal))
        assert set(tiles) <= set(legal)
        assert tiles[0] == search.shipped(*problem)
        for point in scenarios().values():
            assert search.best(*problem, point)[0] in tiles


# The share of the issue rate is fitted at each point, and these change the peer's work.
FITTED_WITH = ("l2_bytes", "threadgroup_bytes", "shuffle_cycles")


@pytest.mark.parametrize("unknown", sorted({*RANGES} - {*FITTED_WITH}))
def test_an_unknown_moves_a_score_one_way(unknown: str) -> None:
    """No tile gains by a slower rate, or by a dearer instruction."""
    row = RANGES[unknown]
    is_rate = unknown.endswith(("_bytes", "_share", "_sharing"))
    # What a spilled register costs matters only where one is.
    beside = replace(NOMINAL, more_registers=6)
    points = [replace(beside, **{unknown: end}) for end in (row.low, row.high)]
    for kernel, family, dim, size in CLASSES:
        chip = search.SCORED_ON[family]
        for tile in search.legal_tiles(kernel, family, dim, size):
            low, high = (
                search.score(kernel, chip, tile, dim, size, assumed=point)
                for point in points
            )
            assert low >= high if is_rate else low <= high, tile
