"""The logs that environment variables switch on."""

from __future__ import annotations

import os
import re
import stat
import warnings
from pathlib import Path
from typing import Callable

import pytest
import torch

import orchard_ops


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Send the kernel log to a file of the test, and start counting at 1."""
    path = tmp_path / "kernels.log"
    monkeypatch.setenv("ORCHARD_KERNEL_LOG", str(path))
    monkeypatch.delenv("ORCHARD_DEBUG_FLASH_ATN", raising=False)
    monkeypatch.delenv("ORCHARD_DEBUG_FLASHATN", raising=False)
    torch.ops.orchard_ops.reset_call_counts()
    return path


def attend(device: torch.device) -> None:
    """Run one forward and one backward."""
    q = torch.randn(1, 2, 8, 16).to(device).requires_grad_()
    orchard_ops.flash_attention(q, q, q).backward(torch.ones(1, 2, 8, 16).to(device))


@pytest.mark.parametrize("name", ["ORCHARD_DEBUG_FLASH_ATN", "ORCHARD_DEBUG_FLASHATN"])
def test_one_line_per_launch(
    name: str, log: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward each append a numbered line with shapes and dtype."""
    monkeypatch.setenv(name, "1")
    attend(device)
    attend(device)
    lines = log.read_text().splitlines()
    starts = [" ".join(line.split()[:3]) for line in lines]
    assert starts == [
        "[flashattn.mm] FWD call=1",
        "[flashattn.mm] BWD call=1",
        "[flashattn.mm] FWD call=2",
        "[flashattn.mm] BWD call=2",
    ]
    for line in lines:
        assert line.count("(1, 2, 8, 16)") == 3
        assert "dtype=float32" in line
        assert re.search(r"kernels=\S+", line)


def test_log_is_readable_by_its_owner_only(
    log: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has mode 0600, whatever it had before."""
    log.touch(mode=0o644)
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", "1")
    attend(device)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_symbolic_link_is_refused(
    log: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A log that is a link is not followed: a warning, and attention still works."""
    target = log.with_name("target")
    target.write_text("mine")
    log.symlink_to(target)
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", "1")
    with warnings.catch_warnings(record=True) as caught:
        attend(device)
    # An operator's warning reaches Python, or only stderr, by PyTorch version.
    told = [str(warning.message) for warning in caught] + [capfd.readouterr().err]
    assert any("symbolic link" in text and str(log) in text for text in told)
    assert target.read_text() == "mine"


def folder(log: Path) -> None:
    """Let a folder have the log's name."""
    log.mkdir()


def in_nothing(log: Path) -> None:
    """Let the log's folder be a file."""
    log.parent.rmdir()
    log.parent.write_text("")


def full(log: Path) -> None:
    """Let the log be a device on which nothing has room."""
    log.symlink_to("/dev/full")


def pipe(log: Path) -> None:
    """Let the log be a pipe that nobody reads."""
    os.mkfifo(log)


def shared(log: Path) -> None:
    """Let the log have another name, where others may see it."""
    log.write_text("")
    os.link(log, log.with_name("other"))


@pytest.mark.parametrize("make", [folder, in_nothing, full, pipe, shared])
def test_what_is_no_file_of_the_users_is_refused(
    make: Callable[[Path], None],
    log: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A warning says why, attention works, and nothing is written."""
    path = log.parent / "logs" / "kernels.log"
    path.parent.mkdir()
    make(path)
    monkeypatch.setenv("ORCHARD_KERNEL_LOG", str(path))
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", "1")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        attend(device)
    # PyTorch writes a warning to stderr where no call of Python's can take it.
    texts = [str(warning.message) for warning in said] + [capfd.readouterr().err]
    assert any("does not write its log" in text for text in texts)
    assert not path.is_file() or path.stat().st_size == 0


@pytest.mark.parametrize("value", ["", "0"])
def test_silent_by_default(
    value: str, log: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty and 0 mean off."""
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", value)
    attend(device)
    assert not log.exists()


def test_tensor_profile(
    tmp_path: Path,
    device: torch.device,
    storage_mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every bound tensor is recorded with its mode, bytes, offset and copies."""
    path = tmp_path / "tensors.log"
    monkeypatch.setenv("ORCHARD_TENSOR_PROFILE", "1")
    monkeypatch.setenv("ORCHARD_TENSOR_LOG", str(path))
    base = torch.randn(3, 2, 8, 16).to(device)
    orchard_ops.flash_attention(base[:1], base[1:2], base[2:])
    text = path.read_text()
    size = 2 * 8 * 16 * 4
    for slot in range(3):
        assert re.search(rf"slot={slot} .*bytes={size} offset={slot * size}\b", text)
    assert set(re.findall(r"copies=(\d+)", text)) == {"0"}
    if device.type == "metalsim":
        assert set(re.findall(r"mode=(\w+)", text)) == {storage_mode}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
