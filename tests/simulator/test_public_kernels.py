"""The reader of other projects' kernels (public_kernels.py), on texts of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from needs import skip_without_metalsim

skip_without_metalsim("simulator")

TOOL = Path(__file__).parent / "public_kernels.py"
RELU = """
#include "part.h"
template <typename T> METAL_FUNC T positive(T x) { return x > T(0) ? x : T(0); }
kernel void relu_forward_kernel_float(device const float* x [[buffer(0)]],
                                      device float* y [[buffer(1)]],
                                      uint i [[thread_position_in_grid]]) {
  y[i] = positive(x[i]);
}
kernel void relu_forward_kernel_half(device const half* x [[buffer(0)]],
                                     device half* y [[buffer(1)]],
                                     uint i [[thread_position_in_grid]]) {
  if (gate) y[i] = positive(x[i]);
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources as another project has them."""
    kernels = tmp_path / "project" / "deep"
    kernels.mkdir(parents=True)
    (kernels / "relu.metal").write_text(RELU)
    include = tmp_path / "project" / "include"
    include.mkdir()
    (include / "part.h").write_text(
        "#include <metal_stdlib>\nusing namespace metal;\n"
        "constant bool gate_ [[function_constant(3)]];\n"
        "constant bool gate = is_function_constant_defined(gate_) ? gate_ : true;\n"
    )
    (kernels / "no_kernel.metal").write_text("constant int one = 1;\n")
    (kernels / "unknown.metal").write_text("kernel void f(device unknown* x) {}\n")
    return tmp_path / "project"


def read(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the tool."""
    words = [sys.executable, *map(str, (TOOL, *arguments))]
    return subprocess.run(words, capture_output=True, text=True)


def test_both_tables(folder: Path) -> None:
    """Files with their first obstacle, kernels with what they compute."""
    done = read(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| project/deep/relu.metal | 2 | 2 of 2 |  |" in lines
    assert (
        "| project/deep/unknown.metal | 1 | 0 of 1 | unknown type name 'unknown' |"
        in lines
    )
    assert "1 of 2 files compile." in lines
    assert "| relu_forward_kernel_float | 0.0e+00 | 0.0e+00 | yes |" in lines
    assert lines[-1] == "2 of 2 kernels compute what NumPy does."


def test_a_kernel_that_is_wrong(folder: Path) -> None:
    """It is told, and so is what strict mode finds."""
    path = folder / "deep" / "relu.metal"
    wrong = path.read_text().replace("y[i] = positive(x[i]);", "y[i] = x[i + 1];", 1)
    path.write_text(wrong)
    done = read(folder, "--only", "relu", "--kernels", 1)
    assert done.returncode == 1
    assert "1 of 1 files compile." in done.stdout
    (row,) = (x for x in done.stdout.splitlines() if "relu_forward_kernel_float" in x)
    assert "out of bounds" in row
    assert row.endswith("| no |")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """It is named."""
    done = read(tmp_path / "missing")
    assert done.returncode == 2
    assert "expected a folder of sources" in done.stderr
