"""The device that every kernel test runs on, and the tests' own options."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from harness import allocating

import orchard_ops


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose what the tests of random problems draw."""
    parser.addoption("--combination", default="0", help="SEED or SEED:INDEX")
    parser.addoption("--fuzz", default="", help="a number of problems or SEED:INDEX")


# In every process: after a first backward on the CPU it would be too late for
# metalsim (sim.enable says why).
@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """Return ORCHARD_TEST_DEVICE, or mps where there is one, else metalsim."""
    wanted = os.environ.get("ORCHARD_TEST_DEVICE", "")
    if wanted not in ("", "mps", "metalsim"):
        raise pytest.UsageError(f"ORCHARD_TEST_DEVICE: mps or metalsim, not {wanted!r}")
    has_mps = torch.backends.mps.is_available()
    if wanted == "mps" and not has_mps:
        raise pytest.UsageError(
            "ORCHARD_TEST_DEVICE=mps, but PyTorch sees no Apple GPU"
        )
    if has_mps and wanted != "metalsim":
        return torch.device("mps")
    orchard_ops.sim.enable()
    return torch.device("metalsim")


@pytest.fixture(params=["private", "shared"])
def storage_mode(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Allocate the test's tensors in each storage mode."""
    with allocating(device, request.param):
        yield request.param
