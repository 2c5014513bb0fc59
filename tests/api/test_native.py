"""Finding and refusing compiled libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from orchard_ops import _native
from orchard_ops._child import python

RUNNING = ".".join(torch.__version__.split(".")[:2])
STRINGS = int(torch._C._GLIBCXX_USE_CXX11_ABI)


def fake(folder: Path, *minors: str) -> None:
    """Write libraries that no loader takes, for some PyTorch minors."""
    folder.mkdir(exist_ok=True)
    for minor in minors:
        (folder / f"_C.torch{minor}.so").write_bytes(b"not a library")


def last_line(failed: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence that an import ends with."""
    assert failed.returncode != 0
    return failed.stderr.strip().splitlines()[-1]


def test_the_library_of_the_running_minor_is_taken(tmp_path: Path) -> None:
    """Of many it is the one whose name says this PyTorch, and no other is touched."""
    fake(tmp_path, "2.0", RUNNING, "2.99")
    line = last_line(import_with(tmp_path))
    assert line.startswith(
        "orchard_ops._errors.LibraryError: [orchard_ops] cannot load"
    )
    assert f"{tmp_path}/_C.torch{RUNNING}.so" in line
    assert f"another PyTorch {RUNNING} than this {torch.__version__}" in line


@pytest.mark.parametrize("abi", [0, 1])
def test_a_wheel_for_linux_has_a_folder_for_each_string(
    tmp_path: Path, abi: int
) -> None:
    """A library for the other std::string is not loaded, and is named as such."""
    fake(tmp_path / f"abi{abi}", RUNNING)
    fake(tmp_path / f"abi{1 - abi}", "2.0")
    line = last_line(import_with(tmp_path))
    if abi == STRINGS:
        assert f"cannot load {tmp_path}/abi{abi}/_C.torch{RUNNING}.so" in line
    else:
        assert f"is for a build with _GLIBCXX_USE_CXX11_ABI={abi}" in line
        assert f"which is running, has {STRINGS}" in line


def test_a_newer_pytorch_is_told_which_there_are(tmp_path: Path) -> None:
    """The ImportError lists them in order, with a command that builds one."""
    fake(tmp_path, "2.97", "2.0")
    fake(tmp_path / "abi0", "2.99")
    fake(tmp_path / "abi1", "2.98")
    line = last_line(import_with(tmp_path))
    assert "compiled libraries for PyTorch 2.0, 2.97, 2.98, 2.99, but" in line
    assert f"PyTorch {torch.__version__} is running" in line
    site = Path(torch.__file__).parent.parent
    assert f"ORCHARD_TORCH_WHEEL={site} pip install" in line


def test_a_program_may_go_on_without(tmp_path: Path) -> None:
    """What catches an ImportError catches this one."""
    fake(tmp_path, "2.0")
    code = f"""
import os
os.environ["ORCHARD_LIBRARY_DIR"] = {str(tmp_path)!r}
try:
    import orchard_ops
except ImportError as error:
    print("without", type(error).__mro__[1].__name__)
"""
    done = subprocess.run(python(code), capture_output=True, text=True, check=True)
    assert done.stdout == "without DeviceError\n"


def test_libraries_are_listed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number, not by text; those of the other std::string are left out."""
    monkeypatch.setenv("ORCHARD_LIBRARY_DIR", str(tmp_path))
    fake(tmp_path / "abi0", "2.9", "2.10", "2.1")
    fake(tmp_path / "abi1", "2.8")
    assert list(_native.built_libraries(False)) == ["2.1", "2.9", "2.10"]
    assert list(_native.built_libraries(True)) == ["2.8"]


def test_without_libraries_calls_say_what_is_missing(tmp_path: Path) -> None:
    """A bare source tree imports, and names the library that a call needs."""
    code = """
q = torch.ones(1, 1, 4, 8)
for options in ({}, {"return_lse": True}, {"dropout_p": 0.5}):
    try:
        orchard_ops.flash_attention(q, q, q, **options)
    except orchard_ops.DeviceError as error:
        assert "_C.torch" in str(error)
    else:
        raise SystemExit("no error")
"""
    done = import_with(tmp_path, code)
    assert done.returncode == 0, done.stderr


def import_with(directory: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """Import orchard_ops in a new process that looks for libraries in a directory."""
    prelude = f"""
import os
os.environ["ORCHARD_LIBRARY_DIR"] = {str(directory)!r}
import torch, orchard_ops
"""
    return subprocess.run(
        python(prelude + code),
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_import_says_nothing() -> None:
    """Not even where PyTorch's counter of operations would, without Triton."""
    code = """
import sys, torch
torch.version.cuda, sys.modules["triton"] = "13.0", None
import orchard_ops
"""
    done = subprocess.run(python(code), text=True, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
