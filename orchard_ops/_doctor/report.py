"""The file that ``orchard-ops doctor --report`` writes."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any, TextIO
from xml.etree import ElementTree

__all__ = ["open_new", "summary_of_tests", "write"]


def open_new(path: Path) -> TextIO:
    """Create a file that nobody else can read, and open it for writing.

    Raises:
        OSError: it exists already (a link that leads nowhere included), or cannot
            be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")


def write(file: TextIO, findings: dict[str, Any]) -> None:
    """Write findings as JSON, in place of those before; home becomes ``~``.

    Called whenever something was found: what a crash leaves is a whole report.
    """
    findings = {"macos": platform.mac_ver()[0], "machine": platform.machine()} | (
        findings
    )
    text = json.dumps(findings, indent=1)
    home = json.dumps(str(Path.home()))[1:-1]
    file.seek(0)
    file.truncate()
    file.write(text.replace(home, "~") + "\n")
    file.flush()


def summary_of_tests(results: Path) -> dict[str, Any]:
    """Summarise what ``pytest --junit-xml`` wrote: counts, and all that did not pass.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such results.
    """
    try:
        cases = list(ElementTree.parse(results).iter("testcase"))
    except ElementTree.ParseError as error:
        raise ValueError(f"{results} is not what --junit-xml writes: {error}") from None
    rows = [(_outcome(case), case) for case in cases]
    return {
        "counts": dict(Counter(outcome for outcome, _ in rows)),
        "not_passed": [
            f"{outcome}: {case.get('classname')}::{case.get('name')}"
            for outcome, case in rows
            if outcome != "passed"
        ],
    }


def _outcome(case: ElementTree.Element) -> str:
    for outcome in ("error", "failure", "skipped"):
        if case.find(outcome) is not None:
            return outcome
    return "passed"
