"""The command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orchard_ops.cli import app
from orchard_ops.cli._comparison import Comparison, Result
from orchard_ops.cli._corpus import Batches, read_corpus
from orchard_ops.cli._gpt import Shape


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


def test_training_through_the_kernels_follows_pytorch(device: torch.device) -> None:
    """A few steps give PyTorch's losses, exact gradients, both modes and no copy."""
    text = torch.arange(512).remainder(97).to(torch.uint8)
    shape = Shape(layers=2, heads=2, head_dim=16, length=16, batch=2)
    comparison = Comparison(shape, device, text, seed=1)
    for _ in range(3):
        comparison.step()
    result = comparison.result
    assert not result.has_parted
    assert max(result.gaps) < 1e-4
    # Four times: the rest of the model rounds too, in another order on mps.
    assert result.gradient_error <= 4 * max(result.gradient_error_torch, 2e-5)
    assert (result.calls_forward, result.calls_backward) == (6, 6)
    assert result.copies == 0
    if device.type == "metalsim":
        assert result.storage_modes == {"private", "shared"}


@pytest.mark.parametrize(
    ("ours", "parts"),
    [([2.0, 1.0], False), ([2.0, 1.1], True), ([2.1, 1.0], True)],
)
def test_curves_part_at_any_step(ours: list[float], parts: bool) -> None:
    """The verdict looks at every step, not only at the last."""
    assert Result(losses=ours, losses_torch=[2.0, 1.0]).has_parted == parts


def test_a_loss_that_is_no_number_parts() -> None:
    """NaN at any step means that the curves part."""
    nan = float("nan")
    assert Result(losses=[2.0, nan, 1.0], losses_torch=[2.0, 1.5, 1.0]).has_parted
