"""macOS has no simulator: one sentence says so, and nothing there counts on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
import torch
from typer.testing import CliRunner

import orchard_ops
from orchard_ops import _child, _native
from orchard_ops._doctor import checkup
from orchard_ops.cli import app, bench

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
WORDS = r"\[sim\] expected Linux.*got macOS; use the GPU here \(device 'mps'\)"
no_gpu = pytest.mark.skipif(
    torch.backends.mps.is_available(), reason="there is a GPU, which is used instead"
)


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python say that it runs on macOS."""
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.parametrize(
    "call",
    [
        _native.load_metalsim,
        lambda: orchard_ops.sim.compile("", "k"),
        lambda: orchard_ops.sim.check(""),
    ],
    ids=["enable", "compile", "check"],
)
@pytest.mark.usefixtures("macos")
def test_every_way_to_the_simulator_is_refused(call: Callable[[], object]) -> None:
    """The error names both systems and what to do."""
    with pytest.raises(orchard_ops.DeviceError, match=WORDS):
        call()


def test_nothing_is_compiled_before_the_refusal(tmp_path: Path) -> None:
    """A fresh process on macOS refuses metalsim without asking for a compiler."""
    compiler = tmp_path / "clang++"
    compiler.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    compiler.chmod(0o755)
    code = """
import torch, orchard_ops
sys.platform = "darwin"
try:
    orchard_ops.sim.enable()
except orchard_ops.DeviceError as error:
    print(error)
"""
    done = subprocess.run(
        _child.python(code),
        env={**os.environ, "ORCHARD_SIM_CXX": str(compiler)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "expected Linux" in done.stdout
    assert not (tmp_path / "asked").exists()


@no_gpu
@pytest.mark.usefixtures("macos")
def test_the_doctor_asks_for_the_gpu() -> None:
    """Without --device it looks for mps alone, and does not propose the simulator."""
    found = checkup.run(checkup.DEVICE, None)
    assert not found.ok
    assert "expected the device mps" in found.line


@no_gpu
@pytest.mark.usefixtures("macos")
def test_the_demo_asks_for_the_gpu() -> None:
    """``orchard-ops train`` ends with the same sentence."""
    done = CliRunner().invoke(app, ["train", "--steps", "1"])
    assert done.exit_code == 2
    assert "sees no Apple GPU" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.usefixtures("macos")
def test_bench_runs_what_needs_no_simulator() -> None:
    """By default; a suite that is named and needs it is refused in words."""
    assert set(bench._choose(None)) <= {"cpu", "gpu"}
    assert set(bench._choose(["work"])) == {"work"}


@pytest.mark.usefixtures("macos")
def test_replay_is_refused(tmp_path: Path) -> None:
    """A recording is replayed on Linux."""
    folder = tmp_path / "000001-forward"
    folder.mkdir()
    (folder / "kernel.metal").write_text("")
    (folder / "launch.json").write_text(json.dumps({"format": 1, "entry": "k"}))
    done = CliRunner().invoke(app, ["replay", "--json", str(tmp_path)])
    assert done.exit_code == 1
    assert "expected Linux" in json.loads(done.stdout)["error"]


def suite(wanted: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process that says it is on macOS."""
    code = """
import pytest, torch, orchard_ops.cli
sys.platform = "darwin"
sys.exit(pytest.main(sys.argv[1:]))
"""
    command = _child.python(code, "-p", "no:cacheprovider", "-q", *arguments)
    environment = {**os.environ, "ORCHARD_TEST_DEVICE": wanted}
    return subprocess.run(command, env=environment, text=True, capture_output=True)


@no_gpu
@pytest.mark.parametrize("wanted", ["", "metalsim"])
def test_the_suite_says_that_it_has_no_device(wanted: str) -> None:
    """One sentence, before any test is collected."""
    done = suite(wanted, str(TESTS / "attention" / "test_philox.py"))
    assert done.returncode == 4
    (said,) = (line for line in done.stderr.splitlines() if line)
    assert "expected mps or cpu, got metalsim" in said
    assert "macOS has no simulator, and cpu runs the tests that need neither" in said


def test_the_suite_runs_without_a_device() -> None:
    """ORCHARD_TEST_DEVICE=cpu: tests of the CPU path run, those of a device do not."""
    done = suite("cpu", str(TESTS), "--co")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_philox.py::" in done.stdout
    assert "test_attention.py::" not in done.stdout
    assert "test_simulator.py::" not in done.stdout
    assert "deselected" in done.stdout


def test_workflows_ask_no_mac_for_the_simulator() -> None:
    """Hosted Macs run what needs neither GPU nor simulator."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert "metalsim" not in path.read_text(), path
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert "ORCHARD_TEST_DEVICE: cpu" in text.partition("  macos:")[2]


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("ninja") is None,
    reason="no cmake or ninja here: they come with a fresh build",
)
def test_a_native_build_on_macos_leaves_it_out(tmp_path: Path) -> None:
    """CMake, told that it is on macOS, builds what the wheels for macOS hold."""
    compiler = tmp_path / "c++"
    zig = f'"{sys.executable}" -m ziglang c++ -target aarch64-macos.13.0'
    compiler.write_text(f'#!/bin/sh\nexec {zig} "$@"\n')
    compiler.chmod(0o755)
    real, tree = Path(torch.__file__).parent, tmp_path / "torch"
    (tree / "lib").mkdir(parents=True)
    for name in ("libtorch_cpu.dylib", "libc10.dylib"):
        (tree / "lib" / name).touch()
    (tree / "include").symlink_to(real / "include")
    shutil.copy(real / "version.py", tree)
    (tmp_path / "metal-cpp" / "Metal").mkdir(parents=True)
    (tmp_path / "metal-cpp" / "Metal" / "Metal.hpp").touch()
    options = {
        "CMAKE_SYSTEM_NAME": "Darwin",
        "CMAKE_CXX_COMPILER": compiler,
        # What a link would have told: nothing is linked here.
        "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",
        "CMAKE_HAVE_LIBC_PTHREAD": "ON",
        "Python_EXECUTABLE": sys.executable,
        "ORCHARD_TORCH_WHEEL": tmp_path,
        "ORCHARD_METAL_CPP_DIR": tmp_path / "metal-cpp",
    }
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja"]
    command += [f"-D{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = (tmp_path / "build" / "build.ninja").read_text()
    assert "csrc/device/metal/device.cpp" in steps
    assert "csrc/torch/mps_stream.cpp" in steps
    assert "csrc/device/sim" not in steps
    assert "csrc/torch/metalsim" not in steps
    assert "ORCHARD_WITH_SIMULATOR" not in steps
