"""The device that every kernel test runs on, and the tests' own options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness import allocating
from needs import chosen_device, skip_without_metalsim

import orchard_ops

# The suite compares every kernel with float64 itself, counts launches and measures
# memory: a trial at each process's first use of a kernel would only take time and show
# in the counts.  test_verify.py asks for trials, in processes of its own.
os.environ.setdefault("ORCHARD_VERIFY", "never")
# And it is about the tables that ship, whatever was tuned on this machine.
os.environ.setdefault("ORCHARD_TUNED", "never")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose what the tests of random problems draw."""
    parser.addoption("--combination", default="0", help="SEED or SEED:INDEX")
    parser.addoption("--fuzz", default="", help="a number of problems or SEED:INDEX")
    parser.addoption("--problem", default="", help="a problem, as a failure prints it")
    parser.addoption("--wrong", default="", help="FUNCTION|ARGUMENT=VALUE|...")
    parser.addoption("--every", default=1, type=int, help="run every Nth test")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what needs a device on the CPU alone, and all but every Nth test."""
    is_cpu, every = chosen_device() == "cpu", config.getoption("--every")
    kept = [
        item
        for item in items
        if not (is_cpu and "device" in getattr(item, "fixturenames", ()))
    ][::every]
    left_out = set(items).difference(kept)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = kept


def pytest_configure() -> None:
    """Say at once, in one sentence, that there is no device to test on."""
    chosen_device()
    # Some tests, and what they start, go to other folders.
    if folder := os.environ.get("ORCHARD_LIBRARY_DIR"):
        os.environ["ORCHARD_LIBRARY_DIR"] = str(Path(folder).resolve())


def pytest_report_header() -> str:
    """Name the device."""
    return f"device: {chosen_device()}"


# In every process: after a first backward on the CPU it would be too late for
# metalsim (sim.enable says why).
@pytest.fixture(scope="session", autouse=True)
def _metalsim() -> None:
    if chosen_device() == "metalsim":
        orchard_ops.sim.enable()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device that kernel tests run on."""
    return torch.device(chosen_device())


@pytest.fixture(params=["private", "shared"])
def storage_mode(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Allocate the test's tensors in each storage mode."""
    if request.param != "private":
        skip_without_metalsim("modes")
    with allocating(device, request.param):
        yield request.param
