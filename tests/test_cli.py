"""The command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orchard_ops.cli import app
from orchard_ops.cli._corpus import Batches, read_corpus


def test_doctor_finds_a_working_device(device: torch.device) -> None:
    """Doctor's check passes and its JSON names versions, device and libraries."""
    done = CliRunner().invoke(app, ["doctor", "--json"])
    findings = json.loads(done.stdout)
    assert done.exit_code == 0, findings
    assert findings["ok"]
    assert findings["torch"] == torch.__version__
    assert findings["device"].startswith(device.type)
    assert "_C" in findings["libraries"]


def test_doctor_prints_a_table() -> None:
    """Without --json doctor prints the same for people."""
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert torch.__version__ in done.stdout


def test_corpus_reads_source_code_only(tmp_path: Path) -> None:
    """Files with other suffixes are left out, the rest comes in order of names."""
    (tmp_path / "b.py").write_text("b = 2\n")
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "c.bin").write_bytes(b"\0" * 100)
    text = read_corpus(tmp_path, least_bytes=12)
    assert bytes(text.tolist()) == b"a = 1\nb = 2\n"


def test_corpus_needs_enough_text(tmp_path: Path) -> None:
    """Too little source code is an error that names the directory and the option."""
    with pytest.raises(ValueError, match="--data") as caught:
        read_corpus(tmp_path, least_bytes=1)
    assert str(tmp_path) in str(caught.value)


def test_batches_follow_the_seed() -> None:
    """The same seed draws the same pieces; targets are the next bytes."""
    text = torch.arange(200, dtype=torch.uint8)
    tokens, targets = Batches(text, batch=3, length=5, seed=7).draw()
    again, _ = Batches(text, batch=3, length=5, seed=7).draw()
    assert torch.equal(tokens, again)
    assert torch.equal(tokens + 1, targets)
