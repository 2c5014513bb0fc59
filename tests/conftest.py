"""The device that every kernel test runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harness import allocating

import orchard_ops


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
