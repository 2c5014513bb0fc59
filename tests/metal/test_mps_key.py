"""The MPS key off a Mac: PyTorch's mps device over the stand-in for Metal.

Everything that a Mac runs but the GPU and PyTorch's own MPS operators: dispatch,
bridge, plan, metal-cpp, encoders, streams, autograd.  The tests that are run are
those that ``ORCHARD_TEST_DEVICE=mps`` runs on a Mac.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from paths import TESTS

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


# The library comes first: PyTorch looks for MPS once, maybe while we are imported.
START = """
import sys, pytest, torch
torch.ops.load_library(sys.argv[1])
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def libraries() -> Path:
    """The package's libraries for a Mac, over the stand-in."""
    sys.path.insert(0, str(TESTS / "metal" / "runtime"))
    import build

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return build.build_for_torch(Path(base) / "orchard-ops-dev" / "metal_runtime")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("suite", "mode"),
    # PyTorch's buffers are private up to 2.11, then shared: who cares is run on both.
    [*((suite, "private") for suite in SUITES), ("objects", "shared"),
     ("views", "shared")],
)  # fmt: skip
def test_suite_passes_on_mps(suite: str, mode: str, libraries: Path) -> None:
    """A part of the suite passes on mps tensors, as on a Mac."""
    environment = {
        **os.environ,
        "ORCHARD_TEST_DEVICE": "mps",
        "ORCHARD_LIBRARY_DIR": str(libraries),
        "ORCHARD_TEST_REPLAY_DIR": str(_native.library_dir()),
        "ORCHARD_SIM_CXX": f"{sys.executable} -m ziglang c++",
        "STANDIN_STORAGE_MODE": mode,
    }
    path, *chosen = SUITES[suite]
    command = python(START, str(libraries / "_C.so"), "-q")
    command += ["-p", "no:cacheprovider", str(TESTS / path), *chosen]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
