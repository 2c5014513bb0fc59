"""What CI runs, and what it leaves out where a machine is too slow for all of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

TEXT = (ROOT / ".ci" / "run").read_text("utf-8")
SESSIONS = re.findall(r"^ *session (.+)$", TEXT, re.M)
# In place of Python: its environments hold itself, as a nox that says what it is asked.
PYTHON = """#!/bin/sh
if [ "$1" = -m ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
  cp "$0" "$3/bin/nox"
fi
case "$0" in */nox) echo "nox $*" ;; esac
"""


def run(folder: Path, seconds: int, *arguments: str) -> list[str]:
    """Run the script in a folder of its own, so many seconds after its start."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", folder / ".ci" / "run", *arguments],
        env={**os.environ, "PYTHON": str(python), "SECONDS": str(seconds)},
        text=True,
        capture_output=True,
        check=True,
    )
    return done.stdout.splitlines()


def nix_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a nix on the path, which nobody then installs."""
    (tmp_path / "nix").write_text("#!/bin/sh\n")
    (tmp_path / "nix").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_every_session_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests first, then each of the others once, where there is time."""
    nix_is_at_hand(tmp_path, monkeypatch)
    said = run(tmp_path, 0)
    common = "--non-interactive --noxfile noxfile.py"
    assert said[0].rstrip() == f"nox {common}"
    wanted = [session.replace('"', "") for session in SESSIONS]
    assert [
        line.partition("--session ")[2] for line in said if "--session" in line
    ] == wanted
    assert len(wanted) > 20
    assert not [line for line in said if "no time" in line]


def test_what_is_left_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 65 minutes no further session begins, and each is told."""
    nix_is_at_hand(tmp_path, monkeypatch)
    said = run(tmp_path, 65 * 60)
    assert not [line for line in said if "--session" in line]
    prefix = "no time was left for: nox -s "
    assert [line[len(prefix) :] for line in said if line.startswith(prefix)] == [
        session.replace('"', "") for session in SESSIONS
    ]


def test_arguments_ask_for_less(tmp_path: Path) -> None:
    """They are nox's, and nothing else is run."""
    said = run(tmp_path, 0, "--session", "lint")
    assert [line.split()[-2:] for line in said] == [["--session", "lint"]]
