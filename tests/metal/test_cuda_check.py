"""The check on an NVIDIA GPU (tests/metal/cuda), where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
