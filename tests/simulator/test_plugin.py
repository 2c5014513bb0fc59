"""The pytest plugin: a fixture, a sweep of seeds, the failing line of Metal."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from needs import skip_without_metalsim
from paths import ROOT

from orchard_ops import _child

skip_without_metalsim("simulator")

METAL = """
#include <metal_stdlib>
using namespace metal;
kernel void racing(device float* y [[buffer(0)]],
                   uint i [[thread_index_in_threadgroup]]) {
  threadgroup float shared[1];
  shared[0] = i;
  y[i] = shared[0];
}
kernel void endless(device float* y [[buffer(0)]]) {
  while (simd_sum(y[0]) == 0.0f) {}
}
"""
TESTS = """
import importlib
import numpy as np
import pytest
from orchard_ops import sim

SEEN = []

def test_racing(metal):
    y = np.zeros(64, np.float32)
    metal.library("k.metal").kernel("racing").dispatch([y], grid=1, group=64)

def test_endless(metal):
    y = np.zeros(1, np.float32)
    metal.library("k.metal").kernel("endless").dispatch([y], grid=1, group=1)

def test_wrong(metal):
    metal.library(text="kernel void f() { nothing(); }").kernel("f")

def test_order(metal):
    assert metal is sim
    SEEN.append(importlib.import_module("orchard_ops._sim").options().seed)

def test_afterwards():
    options = importlib.import_module("orchard_ops._sim").options()
    assert (options.seed, options.strict, options.timeout) == (0, False, 0)
    assert SEEN == list(range(len(SEEN)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user's tests, without a conftest.py."""
    (tmp_path / "k.metal").write_text(METAL)
    (tmp_path / "test_k.py").write_text(TESTS)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a user's tests in a process of their own."""
    code = (
        "import os, pytest\nos.chdir(sys.argv[1])\nsys.exit(pytest.main(sys.argv[2:]))"
    )
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    command = _child.python(code, str(folder), *options, *arguments)
    return subprocess.run(command, text=True, capture_output=True)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the outcome of each test that ran."""
    return dict(re.findall(r"::(test_\S+) (PASSED|FAILED)", done.stdout))


PLUGIN = ("-p", "orchard_ops.sim.plugin", "-v")


def test_a_race_is_shown_with_its_lines(folder: Path) -> None:
    """Launches are strict, and the report shows the lines around the failing one."""
    done = run(folder, *PLUGIN, "-k", "racing")
    assert outcomes(done) == {"test_racing[seed0]": "FAILED"}
    assert "Metal source (k.metal:7)" in done.stdout
    assert "> 7 |   shared[0] = i;" in done.stdout
    assert "  6 |   threadgroup float shared[1];" in done.stdout


def test_strictness_can_be_switched_off(folder: Path) -> None:
    """Without it the same kernel is not caught."""
    done = run(folder, *PLUGIN, "-k", "racing", "--no-metal-strict")
    assert outcomes(done) == {"test_racing[seed0]": "PASSED"}


def test_a_launch_has_a_limit_of_time(folder: Path) -> None:
    """A kernel without an end fails its test, and names its line."""
    done = run(folder, *PLUGIN, "-k", "endless", "--metal-timeout", "0.2")
    assert outcomes(done) == {"test_endless[seed0]": "FAILED"}
    assert "timeout of 0.2 seconds" in done.stdout


def test_a_text_that_does_not_compile_is_shown(folder: Path) -> None:
    """The compiler's first complaint has its lines too."""
    done = run(folder, *PLUGIN, "-k", "wrong")
    assert "> 1 | kernel void f() { nothing(); }" in done.stdout


def test_a_test_runs_once_for_each_seed(folder: Path) -> None:
    """The sweep orders threads anew each time, and leaves no trace behind."""
    done = run(folder, *PLUGIN, "-k", "order or afterwards", "--metal-seeds", "3")
    assert outcomes(done) == {
        **{f"test_order[seed{n}]": "PASSED" for n in range(3)},
        "test_afterwards": "PASSED",
    }


def test_a_conftest_can_ask_for_it(folder: Path) -> None:
    """The line that the documentation shows works."""
    (folder / "conftest.py").write_text('pytest_plugins = ["orchard_ops.sim.plugin"]\n')
    assert outcomes(run(folder, "-v", "-k", "order")) == {"test_order[seed0]": "PASSED"}


def test_nobody_pays_who_does_not_ask() -> None:
    """No entry point makes every pytest import the package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "pytest11" not in text
