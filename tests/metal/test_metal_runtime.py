"""The Metal device's own C++ code, run off a Mac over a stand-in for Apple's."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import standin_build

HERE = Path(__file__).parent / "runtime"
PROGRAM = sorted((HERE / "program").glob("*_tests.cpp"))
TESTS = [
    name
    for path in PROGRAM
    for name in re.findall(r"^    TEST\((\w+)\),$", path.read_text(), re.M)
]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the stand-in's assembly is for Linux; a Mac has the real thing",
)


# One process-wide stream, which mps_stream.cpp declares itself; PyTorch's own
# header; many streams, one current in each thread; GPU errors reported by PyTorch.
MINORS = (4, 13, 14, 15)


def build(minor: int) -> Path:
    """Build the program, once for all processes of a test run."""
    return standin_build.build(standin_build.FOLDER, minor)


@pytest.fixture(scope="session")
def program() -> Path:
    """The program with the streams of PyTorch 2.4."""
    return build(MINORS[0])


def passes(program: Path, name: str) -> None:
    """Run one test in a process of its own."""
    done = subprocess.run(
        [program, name],
        env={"ORCHARD_SIM_CXX": f"{sys.executable} -m ziglang c++", **os.environ},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TESTS)
def test_metal_device(program: Path, name: str) -> None:
    """Each test of the program passes."""
    passes(program, name)


@pytest.mark.parametrize("name", [name for name in TESTS if "stream" in name])
@pytest.mark.parametrize("minor", MINORS[1:])
def test_streams_of_newer_pytorch(minor: int, name: str) -> None:
    """The tests of the stream pass with what PyTorch has from 2.7 and from 2.14 on."""
    passes(build(minor), name)


def test_program_knows_its_tests(program: Path) -> None:
    """The list of tests here is the program's own."""
    listed = subprocess.run([program], text=True, capture_output=True, check=True)
    assert listed.stdout.split() == TESTS
    assert sum("stream" in name for name in TESTS) >= 4
