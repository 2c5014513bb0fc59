"""Recording launches to files, and running them again on the simulator."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needs import skip_without, skip_without_metalsim
from typer.testing import CliRunner

import orchard_ops
from orchard_ops._child import python
from orchard_ops.cli import app

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FEATURES = [
    ("plain", {}),
    ("causal-dropout", {"is_causal": True, "dropout_p": 0.3}),
    ("window-softcap", {"window": (5, 2), "softcap": 20.0}),
]


def attend(device: torch.device, dtype: torch.dtype, **options: Any) -> None:
    """Run one forward and one backward on views that begin inside their buffers."""
    torch.manual_seed(3)
    q, k, v = (
        torch.randn(2, 2, 37, 24, dtype=dtype).to(device)[1:].requires_grad_()
        for _ in range(3)
    )
    mask = torch.randn(37, 37).to(device).requires_grad_()
    out = orchard_ops.flash_attention(q, k, v, attn_mask=mask, **options)
    out.backward(torch.ones_like(out))


def launches(path: Path) -> list[str]:
    """Return the recorded kernels, in order."""
    return [folder.name.partition("-")[2] for folder in sorted(path.iterdir())]


def run_replay(path: Path, *more: str) -> tuple[int, str]:
    """Run ``orchard-ops replay``, which is the simulator's; return status and output.

    A Mac, which has none, only records; ORCHARD_TEST_REPLAY_DIR names one elsewhere.
    """
    command = ["replay", str(path), *more]
    if elsewhere := os.environ.get("ORCHARD_TEST_REPLAY_DIR"):
        # What recorded has no simulator, as the macOS wheels.
        environment = {**os.environ, "ORCHARD_LIBRARY_DIR": elsewhere}
        program = python("from orchard_ops.cli import app; app()", *command)
        ended = subprocess.run(
            program, env=environment, text=True, capture_output=True, check=False
        )
        return ended.returncode, ended.stdout
    skip_without_metalsim("simulator")
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.stdout


def replay(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Return the status and what ``--json`` says."""
    status, output = run_replay(path, "--json", *more)
    return status, json.loads(output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [o for _, o in FEATURES], ids=[n for n, _ in FEATURES]
)
def test_a_replay_writes_what_was_recorded(
    dtype: torch.dtype, options: dict[str, Any], device: torch.device, tmp_path: Path
) -> None:
    """Every launch of forward and backward, checked strictly, and each with results."""
    skip_without(dtype, device)
    path = tmp_path / "recording"
    with orchard_ops.record(path):
        attend(device, dtype, **options)
    names = launches(path)
    assert names[0] == "forward"
    assert {"backward_prepare", "backward_dkdv"} < set(names)
    status, found = replay(path, "--strict")
    assert found["error"] is None
    assert status == 0
    rows = found["comparisons"]
    assert {row["launch"].partition("-")[2] for row in rows} == set(names)
    assert {"out", "lse", "dk", "dv", "dq", "dbias"} < {r["binding"] for r in rows}
    if device.type == "metalsim":  # The very device that recorded.
        assert {row["different"] for row in rows} == {0}


def test_a_decoding_step_is_recorded(device: torch.device, tmp_path: Path) -> None:
    """Decode and combine, whose scratch and lengths are bindings too."""
    q = torch.randn(2, 1, 4, 32).to(device)
    cache = torch.randn(2, 256, 2, 32).to(device)
    lengths = torch.tensor([256, 77], dtype=torch.int32).to(device)
    with orchard_ops.record(tmp_path / "r"):
        orchard_ops.flash_attn.flash_attn_with_kvcache(
            q, cache, cache, cache_seqlens=lengths, num_splits=2
        )
    assert launches(tmp_path / "r") == ["decode", "combine"]
    status, found = replay(tmp_path / "r")
    assert status == 0, found


def test_one_launch_says_what_it_is(device: torch.device, tmp_path: Path) -> None:
    """Bindings with offset, length and access; the text needs nothing else."""
    with orchard_ops.record(tmp_path / "r"):
        attend(device, torch.float16)
    folder = tmp_path / "r" / "000001-forward"
    launch = json.loads((folder / "launch.json").read_text())
    assert launch["entry"] == "forward"
    assert launch["kernel"].startswith("forward_half_d24")
    query = next(row for row in launch["bindings"] if row["index"] == 0)
    assert query["type"] == "float16"
    assert query["access"] == "read"
    assert query["offset"] == 2 * 37 * 24 * 2
    assert query["length"] == 2 * 37 * 24 * 2
    assert (folder / "0.before").stat().st_size == query["length"]
    assert '#include "' not in (folder / "kernel.metal").read_text()
    status, found = replay(folder)
    assert status == 0, found


def test_all_of_it_is_private(device: torch.device, tmp_path: Path) -> None:
    """Folders and files are the user's alone."""
    with orchard_ops.record(tmp_path / "deep" / "r"):
        attend(device, torch.float32)
    assert stat.S_IMODE((tmp_path / "deep" / "r").stat().st_mode) == 0o700
    for folder in (tmp_path / "deep" / "r").iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()} == {0o600}


def test_only_the_block_is_recorded(device: torch.device, tmp_path: Path) -> None:
    """Nothing before and after; inside, other threads' launches too."""
    path = tmp_path / "r"
    attend(device, torch.float32)
    with pytest.raises(KeyError), orchard_ops.record(path):  # noqa: PT012
        thread = threading.Thread(target=attend, args=(device, torch.float32))
        thread.start()
        thread.join()
        raise KeyError
    count = len(launches(path))
    attend(device, torch.float32)
    assert len(launches(path)) == count > 3


def spoil(path: Path, index: int, number: float) -> None:
    """Change one float32 number of a file."""
    numbers = np.fromfile(path, np.float32)
    numbers[index] = number
    numbers.tofile(path)


@pytest.mark.parametrize("number", [9.0, float("nan"), float("inf")])
def test_another_result_is_noticed(
    number: float, device: torch.device, tmp_path: Path
) -> None:
    """One wrong number in one binding of one launch."""
    with orchard_ops.record(tmp_path / "r"):
        attend(device, torch.float32)
    spoil(tmp_path / "r" / "000001-forward" / "3.after", 7, number)
    status, found = replay(tmp_path / "r")
    wrong = [row for row in found["comparisons"] if not row["ok"]]
    assert status == 1
    assert [(row["launch"], row["binding"]) for row in wrong] == [
        ("000001-forward", "out")
    ]
    assert wrong[0]["different"] >= 1
    assert "DIFFERS" in run_replay(tmp_path / "r")[1]


def test_a_mistake_that_a_gpu_keeps_quiet_about(
    device: torch.device, tmp_path: Path
) -> None:
    """A binding that is too short: the simulator names line and binding."""
    with orchard_ops.record(tmp_path / "r"):
        attend(device, torch.float32)
    keys = tmp_path / "r" / "000001-forward" / "1.before"
    keys.write_bytes(keys.read_bytes()[:-64])
    status, found = replay(tmp_path / "r")
    assert status == 1
    assert found["error"].startswith("[replay] 000001-forward: ")
    assert "outside" in found["error"] or "bounds" in found["error"]


def test_what_is_no_recording(device: torch.device, tmp_path: Path) -> None:
    """Nothing there, a file gone, another format: each is said."""
    assert "holds no launch.json" in replay(tmp_path)[1]["error"]
    with orchard_ops.record(tmp_path / "r"):
        attend(device, torch.float32)
    folder = tmp_path / "r" / "000001-forward"
    text = (folder / "launch.json").read_text()
    (folder / "launch.json").write_text(text.replace('"format": 1', '"format": 2'))
    assert "format 2, this version reads 1" in replay(folder)[1]["error"]
    (folder / "launch.json").write_text(text)
    (folder / "0.before").unlink()
    assert "is no complete launch" in replay(folder)[1]["error"]


def test_a_folder_in_use_is_refused(device: torch.device, tmp_path: Path) -> None:
    """A recording is neither mixed with files nor with another recording."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine").touch()
    with pytest.raises(orchard_ops.InvalidProblemError, match="new or empty folder"):
        orchard_ops.record(tmp_path / "r").__enter__()
    with pytest.raises(orchard_ops.InvalidProblemError, match="no such folder"):
        orchard_ops.record(tmp_path / "r" / "mine" / "deeper").__enter__()
    with (
        orchard_ops.record(tmp_path / "a"),
        pytest.raises(orchard_ops.DeviceError, match="no other recording"),
    ):
        orchard_ops.record(tmp_path / "b").__enter__()
    attend(device, torch.float32)  # ... which ended the first one, and no more.
    assert launches(tmp_path / "a") == []


def test_a_file_that_cannot_be_written(device: torch.device, tmp_path: Path) -> None:
    """The attention fails with the name of the file: nothing is lost silently."""
    with orchard_ops.record(tmp_path / "r"):
        (tmp_path / "r" / "000001-forward").mkdir()
        with pytest.raises(
            orchard_ops.DeviceError, match="000001-forward: File exists"
        ):
            attend(device, torch.float32)
