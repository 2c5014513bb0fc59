"""Every case by every method and layout, on 1, 2, 3, 4 and 8 ranks and both devices.

Not named test_*: it takes some minutes on two cores, and the suite has a part of it.
``nox -s test-torch24 -- tests/distributed/whole.py`` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cases import Case
from needs import skip_without
from parallel import Way
from ranks import Fleet
from test_context_parallel import CASES, check, methods


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Eight ranks, of which each number takes the first."""
    with Fleet(8, tmp_path_factory.mktemp("ranks")) as ranks:
        yield ranks


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("place", ["cpu", "device"])
def test_every_way(
    fleet: Fleet, case: Case, ranks: int, place: str, device: torch.device
) -> None:
    """Output, lse and every gradient, against float64."""
    chosen = device if place == "device" else torch.device("cpu")
    skip_without(case.dtype, chosen)
    for method in methods(case, ranks):
        for layout in ("zigzag", "contiguous"):
            way = Way(tuple(range(ranks)), method, layout, device=chosen.type)
            check(fleet, case, way)
