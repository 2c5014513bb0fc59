"""``orchard-ops bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from needs import chosen_device, needs_metalsim
from typer.testing import CliRunner

import orchard_ops
from orchard_ops import _child
from orchard_ops._perf import chips, plots, suites, wide
from orchard_ops._perf.work import Shape
from orchard_ops.cli import app


@needs_metalsim("device")
def test_bench_reports_what_it_measured() -> None:
    """Chosen suites come as JSON; memory grows with length only."""
    wanted = ["--suite", "memory", "--suite", "host"]
    done = CliRunner().invoke(app, ["bench", "--json", *wanted])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["suites"]) == {"memory", "host"}
    assert "predicted" in found["note"]
    rows = found["suites"]["memory"]
    per_row = [row["bytes_per_row"] for row in rows]
    # Never more for each row of a longer problem; pages weigh more in a short one.
    assert max(per_row[1:]) <= 1.05 * per_row[0]
    assert rows[-1]["peak_bytes"] < 1.2 * 4 * rows[0]["peak_bytes"]
    assert all(row["peak_bytes_with_scratch"] > row["peak_bytes"] for row in rows)
    # PyTorch's composite holds several matrices of scores at once.
    assert rows[-1]["peak_bytes_of_pytorch"] > 2 * rows[-1]["scores_would_take"]
    assert all(row["us"] > 0 for row in found["suites"]["host"])


def test_bench_draws(tmp_path: Path) -> None:
    """Plots go into the folder that is named."""
    pytest.importorskip("matplotlib")
    kinds = ("peak_bytes", "peak_bytes_with_scratch", "peak_bytes_of_pytorch")
    rows = {"memory": [{"length": 8, **dict.fromkeys(kinds, 100)}]}
    (drawn,) = plots.draw(rows, tmp_path / "new")
    assert drawn == tmp_path / "new" / "orchard-bench-memory.png"
    assert drawn.stat().st_size > 1000


@needs_metalsim("device")
def test_bench_prints_tables() -> None:
    """Without --json the same comes as tables, and says what is not measured."""
    done = CliRunner().invoke(app, ["bench", "--suite", "memory"])
    assert done.exit_code == 0, done.output
    assert "peak" in done.stdout
    assert "Nothing under 'predicted' was measured" in done.stdout.replace("\n", " ")


@needs_metalsim("device")
def test_bench_forces_a_backward() -> None:
    """The backward that is named is the one that is counted; others are refused."""
    done = CliRunner().invoke(app, ["bench", "--backward", "both"])
    assert done.exit_code == 2
    assert "both" in done.output
    for backward, products in (("recompute", 7), ("spill", 5)):
        rows = list(suites.work(False, [backward], head_dims=(64, 128)))
        counted = [row for row in rows if row["kind"] == "counted"]
        assert {row["pass"] for row in counted} == {"forward", f"backward, {backward}"}
        assert {row["products"] for row in counted if row["pass"] != "forward"} == {
            products
        }


@needs_metalsim("device")
def test_bench_of_wide_heads() -> None:
    """Memory is linear, PyTorch's is not; times are near the least of PyTorch's."""
    orchard_ops.sim.enable()
    short, long = (wide.vae_memory(length) for length in wide.VAE_LENGTHS)
    assert long["peak_bytes"] <= 4.01 * short["peak_bytes"]
    assert long["peak_bytes_of_pytorch"] > 2 * 4 * long["length"] ** 2
    short, long = (wide.latent_memory(length) for length in wide.LATENT_LENGTHS)
    assert long["peak_bytes"] < long["peak_bytes_of_pytorch"]
    m4 = [chips.chip_named("M4")]
    rows = [*wide.vae_times(Shape(4096, 512, heads=1), m4)]
    rows += wide.latent_times(8192, m4)
    assert [row["pass"] for row in rows] == ["forward", "backward", "forward"]
    for row in rows:
        assert 0.7 < row["predicted_utilisation"] < 0.85, row
        assert 0.9 < row["predicted_ms"] / row["composite_at_least_ms"] < 1.4, row


@pytest.mark.parametrize("name", ["speed", "gpu", "kernels"])
def test_bench_refuses_unknown_suites(name: str) -> None:
    """A suite that is not there is an error that names those that are, or the GPU."""
    if name != "speed" and torch.backends.mps.is_available():
        pytest.skip("there is a GPU")
    done = CliRunner().invoke(app, ["bench", "--suite", name])
    assert done.exit_code == 2
    assert name in done.output


def test_children_import_what_their_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the package's name where bench is started is not imported."""
    (tmp_path / "orchard_ops").mkdir()
    shadow = tmp_path / "orchard_ops" / "__init__.py"
    shadow.write_text("raise ImportError('the source folder')\n")
    ours = str(Path(orchard_ops.__file__).resolve())
    monkeypatch.setattr(sys, "path", [path or str(Path.cwd()) for path in sys.path])
    monkeypatch.chdir(tmp_path)
    ask = "import orchard_ops; print(orchard_ops.__file__)"
    found = subprocess.check_output(_child.python(ask), text=True)
    assert str(Path(found.strip()).resolve()) == ours
    if chosen_device() != "metalsim":  # the simulator alone compiles for a suite
        return
    rows = [row["what"] for row in suites._compile_times()]
    assert len(rows) == 4
