"""The simulator where PyTorch is not, or shall not be imported."""

from __future__ import annotations

import os
import subprocess

import pytest
from needs import skip_without_metalsim

from orchard_ops import _child

skip_without_metalsim("simulator")

# As if it were not installed; it may not be imported by then.
ABSENT = """
assert "torch" not in sys.modules
sys.modules["torch"] = None
"""
KERNEL = """
import numpy as np
from orchard_ops import sim
text = "kernel void f(device float* y [[buffer(0)]]) { y[0] = %s; }"
y = np.zeros(1, np.float32)
sim.library(text=text % "5").kernel("f").dispatch([y], grid=1, group=1)
assert y[0] == 5
assert sim.library(text=text % "5").check().threadgroup_bytes == 0
assert not isinstance(sys.modules.get("torch"), type(sys)), "torch was imported"
"""


def run(
    code: str, *arguments: str, never: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a text without PyTorch: as if it were absent, or was not wanted."""
    environment = {**os.environ, "ORCHARD_TORCH": "never" if never else ""}
    return subprocess.run(
        _child.python(("" if never else ABSENT) + code, *arguments),
        env=environment,
        text=True,
        capture_output=True,
    )


BOTH = pytest.mark.parametrize("never", [False, True])


@BOTH
def test_kernels_run(never: bool) -> None:
    """Compiling, checking and running need NumPy alone."""
    done = run(KERNEL, never=never)
    assert done.returncode == 0, done.stderr


def test_another_value_is_refused() -> None:
    """The variable has one value, and says so."""
    done = subprocess.run(
        _child.python("import orchard_ops"),
        env={**os.environ, "ORCHARD_TORCH": "off"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert "InvalidProblemError: [orchard_ops] expected ORCHARD_TORCH" in done.stderr


@BOTH
def test_errors_are_typed(never: bool) -> None:
    """What C++ throws becomes the same classes, and imports nothing."""
    code = """
import orchard_ops
from orchard_ops import sim
for text in ("kernel void f(device float* y [[buffer(0)]]) { y[0] = x; }",):
    try:
        sim.library(text=text).kernel("f")
    except orchard_ops.KernelCompileError as error:
        print(error.line)
assert not isinstance(sys.modules.get("torch"), type(sys)), "torch was imported"
"""
    done = run(code, never=never)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@BOTH
@pytest.mark.parametrize(
    "line",
    [
        "orchard_ops.flash_attention",
        "orchard_ops.sdpa",
        "from orchard_ops import flash_attention",
        "sim.enable()",
        "sim.memory()",
    ],
)
def test_what_needs_torch_says_so(line: str, never: bool) -> None:
    """Everything else names PyTorch, and what there is without."""
    code = f"import orchard_ops\nfrom orchard_ops import sim\n{line}\n"
    done = run(code, never=never)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("orchard_ops._errors.")
    assert "expected PyTorch" in last
    assert "pip install torch" in last


@BOTH
def test_other_names_are_missing_as_ever(never: bool) -> None:
    """A name that the package never had is an AttributeError."""
    code = "import orchard_ops\nassert not hasattr(orchard_ops, 'attention')\n"
    done = run(code + "print(orchard_ops.__version__)", never=never)
    assert done.returncode == 0, done.stderr


@BOTH
def test_the_command_line(never: bool) -> None:
    """``orchard-ops sim`` is there, and no command that needs PyTorch."""
    code = """
from orchard_ops.cli import app
app(sys.argv[1:], prog_name="orchard-ops")
"""
    done = run(code, "--help", never=never)
    assert done.returncode == 0, done.stderr
    assert " sim " in done.stdout
    assert " bench " not in done.stdout


@BOTH
def test_the_plugin(never: bool) -> None:
    """Users' tests run without PyTorch too."""
    code = """
import os, pathlib, pytest, tempfile
os.chdir(tempfile.mkdtemp())
pathlib.Path("test_f.py").write_text('''
def test_f(metal):
    metal.library(text="kernel void f() {}").kernel("f").dispatch([], 1, 1)
''')
status = pytest.main(["-q", "-p", "orchard_ops.sim.plugin", "-c", os.devnull])
assert not isinstance(sys.modules.get("torch"), type(sys)), "torch was imported"
sys.exit(status)
"""
    done = run(code, never=never)
    assert done.returncode == 0, done.stdout + done.stderr
