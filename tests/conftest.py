"""The device that every kernel test runs on, and the tests' own options."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harness import allocating

import orchard_ops


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose what test_combinations.py draws."""
    parser.addoption("--combination", default="0", help="SEED or SEED:INDEX")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return mps where there is one, else the simulator's metalsim."""
    if torch.backends.mps.is_available():
        return torch.device("mps")
    orchard_ops.sim.enable()
    return torch.device("metalsim")


@pytest.fixture(params=["private", "shared"])
def storage_mode(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Allocate the test's tensors in each storage mode."""
    with allocating(device, request.param):
        yield request.param
