"""``orchard-ops doctor``: what is installed, what is found, and whether it works."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import orchard_ops

from .. import _native
from .._errors import translate
from . import _report, _timing
from ._device import STORAGE_MODES, choose_device, storage_mode
from ._self_test import all_ok, self_test

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
) -> None:
    """Show versions, device, libraries and caches, and check small attentions.

    The exit status is 1 if the device is missing or computes something wrong.
    """
    if tests is not None and report is None:
        raise typer.BadParameter("--tests is for the report: name one with --report")
    try:
        file = _report.open_new(report) if report is not None else None
        summary = _report.summary_of_tests(tests) if tests is not None else None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    findings = _examine(device, with_benchmark=file is not None)
    if summary is not None:
        findings["tests"] = summary
    if file is not None:
        _report.write(file, findings)
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        _print(findings)
    if not findings["ok"]:
        raise typer.Exit(1)


def _examine(wanted: str | None, with_benchmark: bool) -> dict[str, Any]:
    findings = _versions()
    try:
        device = choose_device(wanted)
        findings.update(_device_findings(device))
        findings["self_test"] = self_test(device)
        findings["lane_layout"] = _lane_layout(device, findings["self_test"])
        if device.type == "mps":  # The simulator has no registers to run out of.
            findings["threads_per_threadgroup"] = _thread_limits(device)
        findings["ok"] = all_ok(findings["self_test"])
        if with_benchmark:
            findings["benchmark_of"] = _timing.NOTE[device.type]
            findings["benchmark"] = _timing.short_benchmark(device)
    except (orchard_ops.OrchardError, RuntimeError) as error:
        known = translate(error) if isinstance(error, RuntimeError) else error
        findings.update(ok=False, error=str(known))
    findings["libraries"] = {
        name: str(path) for name, path in _native.loaded_libraries().items()
    }
    return findings


def _lane_layout(device: torch.device, rows: list[dict[str, Any]]) -> str:
    """Say what the probe before the first kernel found."""
    if device.type != "mps":
        return "not probed: the simulator has the layout that the kernels assume"
    if any("largest_error" in row for row in rows):
        return "as the kernels assume (probed on this GPU)"
    errors = [row["error"] for row in rows if "error" in row]
    return f"not confirmed: {errors[0] if errors else 'nothing ran'}"


def _thread_limits(device: torch.device) -> dict[str, dict[str, int]]:
    """Return kernel → maxTotalThreadsPerThreadgroup of its pipeline.

    As it ships, with max_total_threads_per_threadgroup, Metal repeats that number;
    without the attribute its own tells of the registers.  0: no pipeline.
    """
    like = torch.empty(1, device=device)
    rows = zip(*torch.ops.orchard_ops.thread_limits(like))
    return {
        name: {"with_attribute": with_attribute, "without": without}
        for name, with_attribute, without in rows
    }


def _versions() -> dict[str, Any]:
    return {
        "orchard_ops": orchard_ops.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _device_findings(device: torch.device) -> dict[str, Any]:
    storages = []
    for mode in STORAGE_MODES if device.type == "metalsim" else STORAGE_MODES[:1]:
        with storage_mode(device, mode):
            sample = torch.empty(4, 16, device=device)[1:]
        storages.append(asdict(orchard_ops.storage.describe(sample)))
    return {
        "device": str(device),
        "device_name": storages[0]["device_name"],
        "storages": storages,
    }


def _print(findings: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in findings.items():
        for line in value if isinstance(value, list) else [value]:
            text = (
                "\n".join(f"{key}: {item}" for key, item in line.items())
                if isinstance(line, dict)
                else str(line)
            )
            table.add_row(name, escape(text))
    Console().print(table)
