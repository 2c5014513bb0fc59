"""Run tests on what a mutant changed, and say which of them fail.

Each run is a fork of a process that has imported PyTorch and pytest already, which
takes longer than most tests; orchard_ops is imported in the fork, broken.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy  # noqa: F401 - before the fork
import pytest
import torch  # noqa: F401 - before the fork

ROOT = Path(__file__).resolve().parent.parent
QUIET = 300.0  # seconds that a test may take: a mutant's loop may have no end
NO_START = "no test can start"


class _Recorder:
    """A plugin of pytest that writes which tests start, end and fail."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, word: str, name: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{word} {name}\n")

    def pytest_sessionstart(self) -> None:
        self._write("session", "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("start", nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._write("failed", report.nodeid)
            if "KernelCompileError" in report.longreprtext:
                self._write("uncompiled", report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._write("failed", report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write("end", nodeid)


def _run_tests(
    environment: dict[str, str], arguments: Sequence[str], recorder: _Recorder
) -> None:
    """Become a process that runs pytest; does not return."""
    code = 1
    try:
        os.setsid()  # so that what tests start can be stopped with them
        os.chdir(ROOT)
        with Path(os.devnull).open("r+b") as nothing:
            for stream in range(3):
                os.dup2(nothing.fileno(), stream)
        if package := environment.get("PYTHONPATH"):
            sys.path.insert(0, package)
            old = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = (
                f"{package}{os.pathsep}{old}" if old else package
            )
        os.environ.update(environment)
        code = int(pytest.main([*arguments], plugins=[recorder]))
    finally:
        os._exit(code)


def _ended(child: int, log: Path) -> bool:
    """Wait for a process; stop it, and say so, once it writes nothing any more."""
    news, size = time.monotonic(), -1
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if log.stat().st_size != size:
            news, size = time.monotonic(), log.stat().st_size
        if time.monotonic() - news > QUIET:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)
    return True


def failing(
    environment: dict[str, str],
    tests: Sequence[str],
    most: int,
    left_out: Sequence[str],
) -> tuple[list[str], bool]:
    """Return the tests that fail, up to so many, and whether a kernel was refused.

    Args:
        environment: what is set for them; PYTHONPATH comes before all other paths.
        tests: files of tests/, or single tests in them, in their order.
        most: after how many failures to stop.
        left_out: tests that do not count.

    Raises:
        SystemExit: there is no such test, which says nothing about a mutant.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        arguments = ["-q", "--tb=line", "-p", "no:cacheprovider", f"--maxfail={most}",
                     f"--basetemp={folder}/tests",
                     *(f"--deselect=tests/{test}" for test in left_out),
                     *(f"tests/{test}" for test in tests)]  # fmt: skip
        child = os.fork()
        if child == 0:
            _run_tests(environment, arguments, _Recorder(log))
        has_ended = _ended(child, log)
        words = [line.split(" ", 1) for line in log.read_text().splitlines()]
    if words == [["session", ""]]:
        raise SystemExit(f"none of these tests is there: {', '.join(tests)}")
    found = list(dict.fromkeys(name for word, name in words if word == "failed"))
    is_refused = any(word == "uncompiled" for word, _ in words)
    if not words:
        return [NO_START], False
    word, last = words[-1]
    if word == "start":
        found.append(f"{last} ({'crash' if has_ended else 'no end'})")
    return found[:most], is_refused
