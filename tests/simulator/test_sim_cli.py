"""``orchard-ops sim``: files of Metal, their kernels and what these compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import skip_without_metalsim
from typer.testing import CliRunner

from orchard_ops.cli import app

skip_without_metalsim("simulator")

METAL = """
#include <metal_stdlib>
#include "factor.h"
using namespace metal;
kernel void scale(device const float* x [[buffer(0)]],
                  device float* y [[buffer(1)]],
                  constant float& by [[buffer(2)]],
                  uint i [[thread_position_in_grid]]) {
  y[i] = FACTOR * by * x[i];
}
kernel void racing(device float* y [[buffer(0)]],
                   uint i [[thread_index_in_threadgroup]]) {
  threadgroup float shared[1];
  shared[0] = i;
  simdgroup_barrier(mem_flags::mem_none);
  y[i] = shared[0];
}
"""
WRONG = """
kernel void f(device float* y [[buffer(0)]]) {
  y[0] = nothing;
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in a folder with a text, what it includes, and one that is wrong."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "factor.h").write_text("#define FACTOR (N + 1)\n")
    (tmp_path / "k.metal").write_text(METAL)
    (tmp_path / "wrong.metal").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


TEXT = ("k.metal", "-I", "include", "-D", "N=2")


def sim(*arguments: str) -> Any:
    """Run ``orchard-ops sim``."""
    return CliRunner().invoke(app, ["sim", *arguments])


def test_list_prints_the_names() -> None:
    """One a line, or as JSON."""
    assert sim("list", *TEXT).stdout == "scale\nracing\n"
    assert json.loads(sim("list", *TEXT, "--json").stdout) == ["scale", "racing"]


def test_a_file_that_is_not_there() -> None:
    """It is named, and the status is 1."""
    done = sim("list", "nowhere.metal")
    assert done.exit_code == 1
    assert "expected a file of Metal text, got 'nowhere.metal'" in done.output


def test_check_tells_right_from_wrong() -> None:
    """Each file has its line; one that is refused makes the status 1."""
    done = sim("check", *TEXT)
    assert (done.exit_code, done.stdout) == (
        0,
        "k.metal: accepted, 4 bytes of threadgroup memory\n",
    )
    done = sim("check", *TEXT, "wrong.metal")
    assert done.exit_code == 1
    assert "k.metal: accepted" in done.stdout
    assert "> 3 |   y[0] = nothing;" in done.output
    assert "::error" not in done.output


def test_check_as_json() -> None:
    """A row for each file, with what it takes or what is wrong."""
    done = sim("check", *TEXT, "wrong.metal", "--json")
    right, wrong = json.loads(done.stdout)
    assert right == {
        "file": "k.metal",
        "error": None,
        "threadgroup_bytes": 4,
        "spilled": [],
    }
    assert "undeclared identifier 'nothing'" in wrong["error"]


@pytest.mark.parametrize("is_asked", [False, True])
def test_annotations(is_asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub gets a remark on the line: when asked to, and in its workflows."""
    if not is_asked:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = sim("check", "wrong.metal", *["--github"][: int(is_asked)])
    (line,) = (line for line in done.output.splitlines() if line.startswith("::"))
    assert line.startswith("::error file=wrong.metal,line=3,col=10::")
    assert "undeclared identifier 'nothing'" in line


def test_an_annotation_of_a_fault() -> None:
    """A mistake at run time has its line too; the message stays one line."""
    done = run("racing", "--buffer", "0=float32:64", "--strict", "--github")
    assert done.exit_code == 1
    (line,) = (line for line in done.output.splitlines() if line.startswith("::"))
    assert line.startswith("::error file=k.metal,line=14::")
    assert "race" in line


def run(kernel: str, *arguments: str, group: str = "64") -> Any:
    """Run a kernel of the text with one threadgroup."""
    return sim("run", *TEXT, kernel, "--grid", "1", "--group", group, *arguments)


def test_run_computes() -> None:
    """Arrays come from files and go to files; numbers become the parameter's type."""
    x = np.arange(64, dtype=np.float32)
    np.save("x.npy", x)
    slots = ("--buffer", "0=x.npy", "--buffer", "1=float32:8x8", "--bytes", "2=2.0")
    done = run("scale", *slots, "--output", "1=y.npy")
    assert done.exit_code == 0, done.output
    y = np.load("y.npy")
    np.testing.assert_array_equal(6 * x.reshape(8, 8), y)
    assert "threads: 64" in done.stdout
    assert "buffer 1, y: float32 (8, 8)" in done.stdout
    assert "buffer 0" not in done.stdout
    np.testing.assert_array_equal(x, np.load("x.npy"))


def test_run_as_json() -> None:
    """Counters and written buffers, for programs."""
    slots = ("--buffer", "0=float32:4", "--buffer", "1=float32:4", "--bytes", "2=2.0")
    found = json.loads(run("scale", *slots, "--json", group="4").stdout)
    assert found["counters"]["threads"] == 4
    assert found["buffers"] == {"1": [0.0, 0.0, 0.0, 0.0]}


def test_run_by_threads() -> None:
    """All threads may be given in place of threadgroups."""
    slots = ("--buffer", "0=float32:8", "--buffer", "1=float32:8", "--bytes", "2=1.0")
    done = sim("run", *TEXT, "scale", *slots, "--threads", "4,2", "--group", "2,2")
    assert done.exit_code == 0, done.output
    assert "threadgroups: 2" in done.stdout


def test_bytes_from_a_file() -> None:
    """A struct, or any other array, is copied as setBytes would."""
    np.save("by.npy", np.array([3], np.float32))
    np.save("x.npy", np.ones(1, np.float32))
    slots = ("--buffer", "0=x.npy", "--buffer", "1=float32:1", "--bytes", "2=by.npy")
    assert "[9.]" in run("scale", *slots, group="1").stdout


def test_seeds_show_a_race() -> None:
    """Results that depend on the order of threads are refused, without --strict."""
    done = run("racing", "--buffer", "0=float32:64", "--seeds", "8")
    assert done.exit_code == 1
    assert "buffer 0 has other bits" in " ".join(done.output.split())
    assert run("racing", "--buffer", "0=float32:64").exit_code == 0


def test_a_fault_shows_its_lines() -> None:
    """The message, then the lines of Metal."""
    done = run("racing", "--buffer", "0=float32:64", "--strict")
    assert done.exit_code == 1
    assert "> 14 |   shared[0] = i;" in done.output


def test_the_only_kernel_needs_no_name() -> None:
    """A file with several asks which."""
    Path("one.metal").write_text(
        "kernel void f(device float* y [[buffer(0)]]) { y[0] = 5; }"
    )
    slots = ("--buffer", "0=float32:1", "--grid", "1", "--group", "1")
    assert "[5.]" in sim("run", "one.metal", *slots).stdout
    done = sim("run", *TEXT, *slots)
    assert done.exit_code == 2
    assert "scale, racing" in " ".join(done.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--buffer", "0"),
        ("--buffer", "x=float32:1"),
        ("--buffer", "0=nowhere.npy"),
        ("--buffer", "0=number:1"),
        ("--bytes", "2=two"),
        ("--output", "0=y.npy"),
        ("--grid", "one"),
        ("--threadgroup-memory", "0=much"),
    ],
)
def test_what_is_no_option(arguments: tuple[str, str]) -> None:
    """Wrong use has the status 2, apart from what a kernel does wrong."""
    done = run("scale", *arguments)
    assert done.exit_code == 2, done.output
