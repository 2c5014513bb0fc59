"""Finding and refusing compiled libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import orchard_ops
from orchard_ops import _native
from orchard_ops._child import python


@pytest.mark.parametrize("built_for", ["2.1.2", "2.0.0", "1.13.1"])
def test_another_minor_is_refused(built_for: str) -> None:
    """A library of another PyTorch minor is refused, and both versions are named."""
    with pytest.raises(orchard_ops.DeviceError) as caught:
        _native.check_torch_version(built_for, "2.99.1+cpu")
    assert built_for in str(caught.value)
    assert "2.99.1+cpu" in str(caught.value)


def test_another_patch_level_is_accepted() -> None:
    """Patch levels and build tags do not matter."""
    _native.check_torch_version("2.4.0", "2.4.1+cpu")


def test_the_check_happens_at_import(tmp_path: Path) -> None:
    """Importing a package built for another PyTorch fails before loading it."""
    (tmp_path / "_C.so").write_bytes(b"not a library")
    (tmp_path / "_build_info.py").write_text("TORCH_VERSION = '0.9.0'\nVERSION = '0'\n")
    failed = import_with(tmp_path)
    assert failed.returncode != 0
    assert "built for PyTorch 0.9.0" in failed.stderr
    assert torch.__version__ in failed.stderr


def test_without_libraries_calls_say_what_is_missing(tmp_path: Path) -> None:
    """A bare source tree imports, and names the library that a call needs."""
    code = """
q = torch.ones(1, 1, 4, 8)
for options in ({}, {"return_lse": True}, {"dropout_p": 0.5}):
    try:
        orchard_ops.flash_attention(q, q, q, **options)
    except orchard_ops.DeviceError as error:
        assert "_C.so" in str(error)
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
