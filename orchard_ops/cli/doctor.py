"""``orchard-ops doctor``: what is installed, what is found, and whether it works."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any, Optional, TextIO

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import orchard_ops

from .._doctor import checkup
from .._doctor.checkup import Outcome
from .._doctor.report import open_new, summary_of_tests, write

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON only.")
    ] = False,
    device: Annotated[
        Optional[str],  # noqa: UP045 (typer evaluates it, on Python 3.9 too)
        typer.Option(help="mps or metalsim; default: mps where there is one."),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also time a few attentions; write all to this new file."),
    ] = None,
    tests: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Results of pytest --junit-xml, to sum up in the report."),
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Seconds that one check may take.")
    ] = checkup.LIMIT,
) -> None:
    """Show versions, device, libraries and caches, and check small attentions.

    The exit status is 0 only if all is well.  Each check runs in a process of its
    own, so one that crashes or hangs is reported like one that is wrong.
    """
    if tests is not None and report is None:
        raise typer.BadParameter("--tests is for the report: name one with --report")
    try:
        file = open_new(report) if report is not None else None
        summary = summary_of_tests(tests) if tests is not None else None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    findings = _versions()
    if summary is not None:
        findings["tests"] = summary
    outcomes = _examine(findings, device, file, limit)
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        _print(findings, outcomes, report)
    if not findings["ok"]:
        raise typer.Exit(1)


def _examine(
    findings: dict[str, Any], wanted: str | None, file: TextIO | None, limit: float
) -> list[Outcome]:
    """Run the checks; add what they find, and write the report as it grows."""
    names = checkup.checks(wanted, with_benchmark=file is not None)
    findings.update(ok=False, is_complete=False, self_test=[], checks=[])
    outcomes: list[Outcome] = []
    if file is not None:
        write(file, findings)
    print("checking the device ...", file=sys.stderr, flush=True)
    for outcome in checkup.examine(wanted, names, limit):
        outcomes.append(outcome)
        _add(findings, outcome)
        if file is not None:
            write(file, findings)
        if len(outcomes) < len(names) and outcomes[0].ok:
            progress = f"checking {names[len(outcomes)]} ..."
            print(progress, file=sys.stderr, flush=True)
    findings["is_complete"] = True
    findings["lane_layout"] = _lane_layout(findings)
    has_result = any("largest_error" in row for row in findings["self_test"])
    findings["ok"] = has_result and all(outcome.ok for outcome in outcomes)
    if file is not None:
        write(file, findings)
        file.close()
    return outcomes


def _add(findings: dict[str, Any], outcome: Outcome) -> None:
    """Add one outcome to the findings."""
    row = {"check": outcome.check, "ok": outcome.ok, "line": outcome.line}
    findings["checks"].append(row)
    if outcome.check in (checkup.DEVICE, checkup.BENCHMARK):
        findings.update(outcome.found)
    elif outcome.check == checkup.THREADS:
        findings["threads_per_threadgroup"] = outcome.found.get("threads", {})
    else:
        died = {"name": outcome.check, "ok": False, "error": outcome.line}
        findings["self_test"].append(outcome.found or died)
    if not outcome.ok:
        findings.setdefault("error", outcome.line)


def _lane_layout(findings: dict[str, Any]) -> str:
    """Say what the probe before the first kernel found."""
    if not str(findings.get("device", "")).startswith("mps"):
        return "not probed: the simulator has the layout that the kernels assume"
    rows = findings["self_test"]
    if any("largest_error" in row for row in rows):
        return "as the kernels assume (probed on this GPU)"
    errors = [row["error"] for row in rows if "error" in row]
    return f"not confirmed: {errors[0] if errors else 'nothing ran'}"


def _versions() -> dict[str, Any]:
    return {
        "orchard_ops": orchard_ops.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _print(
    findings: dict[str, Any], outcomes: list[Outcome], report: Path | None
) -> None:
    console = Console()
    console.print(
        f"orchard-ops {findings['orchard_ops']}, PyTorch {findings['torch']}, Python "
        f"{findings['python']}, {findings['platform']}",
        highlight=False,
    )
    table = Table("check", "result", "what was found")
    for outcome in outcomes:
        table.add_row(
            outcome.check, "pass" if outcome.ok else "FAIL", escape(outcome.line)
        )
    console.print(table)
    if findings["ok"]:
        console.print("All is well.")
    elif report is None:
        console.print(
            "Something is wrong: see docs/troubleshooting.md, or run this again with "
            "--report FILE and attach that file to an issue."
        )
    else:
        console.print(f"Something is wrong: attach {report} to an issue.")
