"""docs/distributed.md: its example runs, and its figures follow from its formula."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from orchard_ops._child import python

PAGE = (ROOT / "docs/distributed.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path) -> None:
    """In two processes, which compare their results with one's."""
    (example,) = re.findall(r"^```python\n(import torch\n.*?)^```", PAGE, re.M | re.S)
    file = tmp_path / "attend.py"
    file.write_text(example, encoding="utf-8")
    # The launcher starts Pythons of its own, which have to find this package.
    paths = os.pathsep.join(path for path in sys.path if path)
    command = re.findall(r"^python -m (.*) attend\.py$", PAGE, re.M)[0]
    module, *options = command.split()
    start = f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    interface = "lo0" if sys.platform == "darwin" else "lo"
    variables = {"PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": interface}
    subprocess.run(
        python(start, *options, str(file)),
        env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        check=True,
        timeout=120,
    )


def operations_a_second(chip: str) -> float:
    """Return the rate that docs/benchmarks.md predicts at head_dim 128."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {chip}, 128 \|.*$", text, re.M)
    forward, spill = (float(row.split("|")[column]) for column in (2, 6))
    return 14 * 8 * 8192**2 * 128 / ((forward + spill) / 1000)


@pytest.mark.parametrize("gigabits", [1, 10, 20, 40])
def test_lengths_follow_from_the_formula(gigabits: int) -> None:
    """(2 s + 4) F / (7 c g B), for a causal mask in 16 bits."""
    (row,) = re.findall(rf"^\| {gigabits} Gb/s.*$", PAGE, re.M)
    link = gigabits * 1e9 / 8  # bytes a second
    wanted = [
        f"{8 * operations_a_second(chip) / (7 * 0.5 * g * link) / 1000:.1f}"
        for chip in ("M4", "M4 Max")
        for g in (1, 4)
    ]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == wanted


def test_rates_are_those_of_the_model() -> None:
    """The page states them."""
    for chip in ("M4", "M4 Max"):
        assert f"{chip} {operations_a_second(chip) / 1e12:.1f} · 10¹²" in " ".join(
            PAGE.split()
        )
