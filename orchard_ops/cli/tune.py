"""``orchard-ops tune``: tiles by measurement on this GPU."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import orchard_ops

from .. import _native
from .._device import choose_device
from .._tune.search import Finding
from .._tune.shapes import HELP, shapes_of_log
from .._tune.store import (
    Choices,
    exported,
    kept,
    reset,
    shipped_tile,
    value_words,
    words,
)

__all__ = ["tune"]


def tune(
    shape: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer evaluates it, on Python 3.9 too)
        typer.Option(help=f"{HELP}; as often as you like; default: common models'."),
    ] = None,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also the shapes that this log of calls has most often."),
    ] = None,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="mps or metalsim; default: the GPU if there is one."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Tiles of each kernel that are tried.")
    ] = 12,
    budget: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds after which nothing new is tried."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Only print what is kept for this device.")
    ] = False,
    is_reset: Annotated[
        bool, typer.Option("--reset", help="Only go back to the shipped choices.")
    ] = False,
    export: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write what is kept to a file, for a maintainer."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON only.")
    ] = False,
) -> None:
    """Measure tiles on this GPU and use the fastest from the next call on.

    On the simulator the cost model says the times.  What was found stays when you
    interrupt it.
    """
    try:
        like = torch.zeros(1).to(choose_device(device))
        if is_reset:
            reset(like)
        shapes = list(shape or ())
        if log is not None:
            shapes += map(str, shapes_of_log(log))
        findings: list[Finding] = []
        is_interrupted = False
        if not (show or is_reset or (export is not None and not shapes)):
            findings, is_interrupted = _run(shapes, device, candidates, budget, as_json)
        choices = kept(like)
        if export is not None:
            export.write_text(exported(like, choices))
    except (orchard_ops.OrchardError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        typer.echo(json.dumps(_report(like, choices, findings), indent=1))
    else:
        _print(like, choices, findings)
    if is_interrupted:
        raise typer.Exit(130)


def _run(
    shapes: list[str],
    device: str | None,
    candidates: int,
    budget: float | None,
    quiet: bool,
) -> tuple[list[Finding], bool]:
    """Return the findings, and whether the user ended it before its time."""
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    found: list[Finding] = []
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("tune", total=1.0)

        def progress(text: str, share: float) -> None:
            bar.update(task, completed=share, description=escape(text))

        try:
            orchard_ops.tune(
                shapes or None,
                device=device,
                candidates=candidates,
                budget=budget,
                progress=progress,
                found=found.append,
            )
        except KeyboardInterrupt:
            return found, True
    return found, False


def _report(
    like: torch.Tensor, choices: Choices, findings: list[Finding]
) -> dict[str, Any]:
    return {
        **json.loads(exported(like, choices)),
        "torch": torch.__version__,
        "findings": [
            {**asdict(found), "shape": str(found.shape), "speedup": found.speedup}
            for found in findings
        ],
    }


def _beside(found: Finding) -> str:
    """Return PyTorch's own time as a share of ours."""
    if found.beside_ms is None:
        return ""
    ours, theirs = found.beside_ms
    return f"{theirs / ours:.2f} of ours"


def _print(like: torch.Tensor, choices: Choices, findings: list[Finding]) -> None:
    console = Console()
    if findings:
        columns = ("shape", "pass", "shipped ms", "tuned ms", "speedup", "PyTorch's")
        table = Table(*columns, "chosen")
        for found in findings:
            table.add_row(
                *(str(found.shape), found.which, f"{found.shipped_ms:.4g}"),
                *(f"{found.tuned_ms:.4g}", f"{found.speedup:.3f}"),
                _beside(found),
                words(found.tuned) or "as shipped",
            )
        console.print(table)
        console.print(f"Times: {findings[0].unit}.")
    name = _native.ops.describe_storage(like)[3]
    if not choices.values:
        console.print(f"Nothing is kept for {name}: the shipped choices hold.")
        return
    table = Table("kept for", "what", "shipped", "chosen", title=escape(name))
    for (what, of), value in choices.values.items():
        is_tile = not isinstance(value, int)
        shipped = value_words(shipped_tile(like, what, of)) if is_tile else ""
        table.add_row(str(of), what, shipped, value_words(value))
    console.print(table)
