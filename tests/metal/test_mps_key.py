"""The MPS key off a Mac: PyTorch's mps device over the stand-in for Metal.

Everything that a Mac runs but the GPU and PyTorch's own MPS operators: dispatch,
bridge, plan, metal-cpp, encoders, streams, autograd.  The tests that are run are
those that ``ORCHARD_TEST_DEVICE=mps`` runs on a Mac.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import standin_build
from paths import TESTS
from programs import END_AFTER_BACKWARD

from orchard_ops import _native
from orchard_ops._child import python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the stand-in's assembly is for Linux; a Mac has the real thing",
)

# What each part of the suite shows on mps.
SUITES = {
    "objects": ("metal/runtime/pytorch/on_mps.py",),
    "recorded": (
        "api/test_record.py",
        "-k",
        "plain-torch.float16 or decoding or private",
    ),
    "verified": (
        "api/test_verify.py",
        "-k",
        "an_entry or float16 or bias or layout or prepare or falls_back or paged "
        "or cannot_be_written or foreign_cache or together_leave or damaged_entry",
    ),
    "training": ("api/test_mps_smoke_training.py",),
    "views": ("api/test_storage_bridge.py", "-k", "views or offsets or slices"),
    "decode": ("attention/test_kvcache.py", "-k", "matches_float64 and not cpu"),
    "varlen": ("attention/test_varlen.py", "-k", "device or neighbors or packing"),
    "spilled": (
        "attention/test_spill.py",
        "-k",
        "spilling_matches_float64 and f16-d64",
    ),
    "features": (
        "attention/test_attention.py",
        "-k",
        "together or mask or types or twice",
    ),
}


# The reasons of support/needs.py.
KNOWN = re.compile(r"needs metalsim: |no torch\.bfloat16 on mps: ")


@pytest.fixture(scope="module")
def libraries() -> Path:
    """The package's libraries for a Mac, over the stand-in."""
    return standin_build.build_for_torch()


def run(
    libraries: Path, mode: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run some tests on the stand-in's mps device."""
    environment = standin_build.environment(libraries, mode) | variables
    environment["ORCHARD_TEST_REPLAY_DIR"] = str(_native.library_dir())
    command = python(standin_build.PYTEST, "-q", "-p", "no:cacheprovider", *arguments)
    return subprocess.run(command, env=environment, text=True, capture_output=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("suite", "mode"),
    # PyTorch's buffers are private up to 2.11, then shared: who cares is run on both.
    [*((suite, "private") for suite in SUITES), ("objects", "shared"),
     ("views", "shared")],
)  # fmt: skip
def test_suite_passes_on_mps(suite: str, mode: str, libraries: Path) -> None:
    """A part of the suite passes on mps tensors, as on a Mac."""
    path, *chosen = SUITES[suite]
    done = run(libraries, mode, str(TESTS / path), *chosen)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if not KNOWN.search(line)] == []


@pytest.mark.timeout(900)
def test_bfloat16_is_skipped_where_mps_has_none(libraries: Path) -> None:
    """On macOS 13 its cases say why they are skipped, and the others pass."""
    path = str(TESTS / "attention" / "test_attention.py")
    chosen = (path, "-k", "bf16-d96 or f16-d33")
    done = run(libraries, "private", *chosen, STANDIN_MACOS="13")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "no torch.bfloat16 on mps:" in done.stdout
    assert re.search(r"\b[1-9]\d* skipped", done.stdout.splitlines()[-1])


def test_a_program_may_end_after_a_backward(libraries: Path) -> None:
    """PyTorch's own thread for mps does not abort a process that is ending.

    Without care it does, on Linux with 2.13; of a Mac it is assumed that it never does.
    """
    environment = standin_build.environment(libraries)
    subprocess.run(python(END_AFTER_BACKWARD, "mps"), env=environment, check=True)
