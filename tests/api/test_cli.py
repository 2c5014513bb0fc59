"""The command line."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import orchard_ops
from orchard_ops._child import python
from orchard_ops._demo.comparison import Comparison, Result
from orchard_ops._demo.corpus import Batches, read_corpus
from orchard_ops._demo.gpt import Shape
from orchard_ops._doctor import checkup, self_test
from orchard_ops.cli import app


def test_doctor_finds_a_working_device(device: torch.device) -> None:
    """Doctor's check passes and its JSON names versions, device and libraries."""
    done = CliRunner().invoke(app, ["doctor", "--json", "--device", device.type])
    findings = json.loads(done.stdout)
    assert done.exit_code == 0, findings
    assert findings["ok"]
    assert findings["torch"] == torch.__version__
    assert findings["device"].startswith(device.type)
    assert "_C" in findings["libraries"]


def test_doctor_prints_a_table(device: torch.device) -> None:
    """Without --json doctor prints a line a check, and what to do at the end."""
    done = CliRunner().invoke(app, ["doctor", "--device", device.type])
    assert done.exit_code == 0
    assert torch.__version__ in done.stdout
    assert done.stdout.count("pass") == len(checkup.checks(device.type, False))
    assert "All is well." in done.stdout


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is a GPU")
def test_doctor_says_what_to_do_when_something_is_wrong() -> None:
    """A check that fails says FAIL, and the last line where to go."""
    done = CliRunner().invoke(app, ["doctor", "--device", "mps"])
    assert done.exit_code == 1
    assert "FAIL" in done.stdout
    assert "--report FILE" in " ".join(done.stdout.split())


def report(path: Path, device: str, *more: str) -> Any:
    """Run doctor --report."""
    wanted = ["doctor", "--json", "--report", str(path), "--device", device]
    return CliRunner().invoke(app, [*wanted, *more])


JUNIT = """<testsuites><testsuite>
<testcase classname="t" name="good"/>
<testcase classname="t" name="bad"><failure message="x"/></testcase>
<testcase classname="t" name="left_out"><skipped/></testcase>
</testsuite></testsuites>"""


def test_doctor_writes_one_report(device: torch.device, tmp_path: Path) -> None:
    """The report is private and holds versions, probe, tests and timings."""
    path, results = tmp_path / "report.json", tmp_path / "results.xml"
    results.write_text(JUNIT)
    done = report(path, device.type, "--tests", str(results))
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(Path.home()) not in path.read_text()
    found = json.loads(path.read_text())
    assert found["torch"] == torch.__version__
    assert found["device"].startswith(device.type)
    assert found["lane_layout"]
    assert len(found["self_test"]) == 5
    assert found["tests"]["counts"] == {"passed": 1, "failure": 1, "skipped": 1}
    assert found["tests"]["not_passed"] == ["failure: t::bad", "skipped: t::left_out"]
    for row in found["benchmark"]:
        assert row["ours_ms"] > 0, row
        assert row["sdpa_ms"] > 0, row


def test_doctor_replaces_nothing(tmp_path: Path) -> None:
    """A report never goes through a link nor over a file, and says so at once."""
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for path in (kept, link):
        done = report(path, "metalsim")
        assert done.exit_code == 2
        assert "exists" in done.output
    assert kept.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_doctor_refuses_what_is_no_test_result(tmp_path: Path) -> None:
    """Test results that cannot be read are an error, not an empty summary."""
    (tmp_path / "results.xml").write_text("no xml")
    more = ["--tests", str(tmp_path / "results.xml")]
    done = report(tmp_path / "report.json", "metalsim", *more)
    assert done.exit_code == 2
    assert "--junit-xml" in done.output
    done = CliRunner().invoke(app, ["doctor", *more])
    assert done.exit_code == 2


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is a GPU")
def test_doctor_does_not_fall_back(tmp_path: Path) -> None:
    """Asked for mps without a GPU, doctor fails and the report says why."""
    done = report(tmp_path / "report.json", "mps")
    assert done.exit_code == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert not found["ok"]
    assert "no Apple GPU" in found["error"]


def test_doctor_finds_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that is a little wrong, or raises, is not ok."""
    cpu = torch.device("cpu")
    assert self_test.all_ok(self_test.self_test(cpu))
    real = orchard_ops.flash_attention

    def shifted(*arguments: Any, **more: Any) -> Any:
        out = real(*arguments, **more)
        return out if out.dtype == torch.float64 else out + 0.1

    monkeypatch.setattr(orchard_ops, "flash_attention", shifted)
    assert not any(row["ok"] for row in self_test.self_test(cpu))

    def raising(*_: Any, **__: Any) -> Any:
        raise orchard_ops.DeviceError("gone")

    monkeypatch.setattr(orchard_ops, "flash_attention", raising)
    assert all(row["error"] == "gone" for row in self_test.self_test(cpu))


# A child without PyTorch: it crashes, hangs or ends at the checks of that name.
FAKE_CHILD = """
import json, os, time
with os.fdopen(int(sys.argv[1]), "w") as out:
    for name in json.loads(sys.argv[3]):
        if name == "crash":
            os.write(2, b"-[MTLBuffer length]: failed assertion\\n")
            os.abort()
        if name == "end":
            os._exit(7)
        if name == "hang":
            time.sleep(600)
        row = {"check": name, "ok": True, "line": "fine", "found": {}}
        out.write(json.dumps(row) + "\\n")
        out.flush()
"""


def test_doctor_outlives_a_check_that_crashes_or_hangs() -> None:
    """Such a check has failed, with the reason; the others run all the same."""
    names = ["device", "crash", "one", "hang", "end", "two"]
    found = list(checkup.examine(None, names, limit=2.0, text=FAKE_CHILD))
    assert [outcome.check for outcome in found] == names
    assert [outcome.ok for outcome in found] == [True, False, True, False, False, True]
    assert "SIGABRT: -[MTLBuffer length]: failed assertion" in found[1].line
    assert "no answer in 2 seconds" in found[3].line
    assert "status 7" in found[4].line


def test_doctor_runs_nothing_without_a_device() -> None:
    """The check of the device comes first; the others need one."""
    found = list(checkup.examine("none", ["device", "float32"]))
    assert [(outcome.check, outcome.ok) for outcome in found] == [("device", False)]
    assert "expected the device mps or metalsim" in found[0].line


def test_a_report_holds_what_was_found_before_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written as they come: an end in the middle leaves a whole report."""

    def examine(*_: Any) -> Iterator[checkup.Outcome]:
        yield checkup.Outcome("device", True, "mps", {"device": "mps:0"})
        raise KeyboardInterrupt

    monkeypatch.setattr(checkup, "examine", examine)
    done = report(tmp_path / "report.json", "metalsim")
    assert done.exit_code != 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["device"] == "mps:0"
    assert not found["is_complete"]
    assert not found["ok"]


def test_a_dtype_that_the_device_lacks_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's MPS of 2.1 and 2.2 refuses bfloat16 with a TypeError."""

    class Refuses:
        def to(self, _: torch.device) -> None:
            raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(self_test, "_inputs", lambda _: [Refuses()] * 4)
    row = self_test.row(self_test.CASES[-1], torch.device("cpu"))
    assert row["not_supported"] == "BFloat16 is not supported on MPS"


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


def test_train_reports_as_json(device: torch.device, tmp_path: Path) -> None:
    """One object and nothing else, for programs that read it."""
    words = ["train", "--steps", "1", "--json", "--plot", str(tmp_path / "losses.png")]
    done = CliRunner().invoke(app, words)
    report = json.loads(done.stdout)
    assert (done.exit_code, report["device"], report["steps"]) == (0, device.type, 1)
    assert report["final_gap"] <= report["allowed_gap"]


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


def test_without_typer_the_command_says_what_it_needs() -> None:
    """A sentence and a status, no traceback; the package itself imports."""
    code = """
import sys
sys.modules["typer"] = None
from orchard_ops.cli import app
app()
"""
    done = subprocess.run(python(code), text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stderr == (
        "orchard-ops: the command line needs typer and rich: "
        "pip install 'orchard-ops[cli]'\n"
    )
