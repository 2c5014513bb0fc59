"""The device that every kernel test runs on, and the tests' own options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harness import allocating

import orchard_ops
from orchard_ops import _native

# Files that try the simulator itself, or run kernels on it whatever the device is.
ON_THE_SIMULATOR = {
    "test_acceptance.py",
    "test_gpu_classes.py",
    "test_metalsim.py",
    "test_mps_operators.py",
    "test_opinfo.py",
    "test_simulator.py",
    "test_simulator_checks.py",
    "test_specialisations.py",
    "test_strict.py",
    "test_work.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose what the tests of random problems draw."""
    parser.addoption("--combination", default="0", help="SEED or SEED:INDEX")
    parser.addoption("--fuzz", default="", help="a number of problems or SEED:INDEX")


def chosen_device() -> str:
    """Return ORCHARD_TEST_DEVICE, or mps where there is one, else metalsim.

    Raises:
        pytest.UsageError: what is asked for is not here, or nothing is.
    """
    wanted = os.environ.get("ORCHARD_TEST_DEVICE", "")
    if wanted not in ("", "mps", "metalsim", "cpu"):
        raise pytest.UsageError(
            f"ORCHARD_TEST_DEVICE: mps, metalsim or cpu, not {wanted!r}"
        )
    has_mps = torch.backends.mps.is_available()
    if wanted == "mps" and not has_mps:
        raise pytest.UsageError(
            "ORCHARD_TEST_DEVICE=mps, but PyTorch sees no Apple GPU"
        )
    found = wanted or ("mps" if has_mps else "metalsim")
    if found == "metalsim" and not _native.has_simulator():
        raise pytest.UsageError(
            "ORCHARD_TEST_DEVICE: expected mps or cpu, got metalsim, which is the "
            "default where PyTorch sees no Apple GPU; macOS has no simulator, and cpu "
            "runs the tests that need neither"
        )
    return found


def pytest_configure() -> None:
    """Say at once, in one sentence, that there is no device to test on."""
    chosen_device()


def pytest_report_header() -> list[str]:
    """Name the device, and what is left out for want of the simulator."""
    header = [f"device: {chosen_device()}"]
    if not _native.has_simulator():
        header.append(f"no simulator here, so without {sorted(ON_THE_SIMULATOR)}")
    return header


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files that are about the simulator where there is none."""
    is_simulated = collection_path.name in ON_THE_SIMULATOR
    return True if is_simulated and not _native.has_simulator() else None


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what needs a device on the CPU alone, or a simulator on macOS."""

    def runs(item: pytest.Item) -> bool:
        if chosen_device() == "cpu" and "device" in getattr(item, "fixturenames", ()):
            return False
        is_simulated = item.get_closest_marker("simulator") is not None
        return not is_simulated or _native.has_simulator()

    left_out = [item for item in items if not runs(item)]
    items[:] = [item for item in items if runs(item)]
    config.hook.pytest_deselected(items=left_out)


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
    with allocating(device, request.param):
        yield request.param
