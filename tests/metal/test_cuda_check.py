"""The check on an NVIDIA GPU (tests/metal/cuda), where there is none."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from needs import needs_metalsim

from orchard_ops import sim
from orchard_ops._tune.predicted import ModelMeter

CHECK = Path(__file__).parent / "cuda"


def test_says_why_it_cannot_run() -> None:
    """Without a GPU the command fails and names what is missing."""
    done = subprocess.run(
        [sys.executable, str(CHECK)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    assert "[cuda check] cannot run: PyTorch" in done.stderr
    assert "no NVIDIA GPU" in done.stderr


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The part that tunes, as the command finds it."""
    monkeypatch.syspath_prepend(str(CHECK))
    return importlib.import_module("tuning")


@needs_metalsim("simulator")
def test_its_search_and_its_table(
    tuning: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the simulator in the GPU's place, kernels made by two threads at once."""
    sim.enable()
    like = torch.zeros(1).to(sim.DEVICE)
    meter = ModelMeter(like)
    meter.compilers = 2
    shapes = ["1,2,1,40,40,16,float16,causal", "1,2,1,1,64,16,float16,decode"]
    rows = list(tuning.rows(like, meter, None, shapes, candidates=2))
    assert [row["pass"] for row in rows] == ["forward", "backward", "decode"]
    for row in rows:
        assert row["is_good"], row["errors"]
        assert row["tuned_ms"] <= row["shipped_ms"]
        assert tuning.text_of(row).startswith("ok ")
    assert [*rows[1]["errors"]] == ["dq", "dk", "dv"]
    table = tuning.markdown(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1
    assert "refused" not in capsys.readouterr().out
