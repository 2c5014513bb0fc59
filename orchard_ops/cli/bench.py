"""``orchard-ops bench``: counted work, predicted times, and what can be measured."""

from __future__ import annotations

import json
import platform
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import orchard_ops

from .. import _native
from .._errors import translate
from .._perf import mac
from .._perf.plots import draw
from .._perf.suites import SUITES, Row, Suite, work
from .._perf.work import BACKWARDS

__all__ = ["bench"]

MAC: dict[str, Suite] = {"gpu": mac.gpu, "kernels": mac.kernels}
"""The suites that need an Apple GPU."""
WITHOUT_SIMULATOR = ("cpu", *MAC)
"""The suites that do not run on it."""

NOTE = (
    "Nothing under 'predicted' was measured: it is the model of docs/benchmarks.md. "
    "The simulator's own speed says nothing about a GPU."
)


def bench(
    suite: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer evaluates it, on Python 3.9 too)
        typer.Option(help=f"Any of {', '.join([*SUITES, *MAC])}; default: all here."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="More shapes and repeats: minutes.")
    ] = False,
    backward: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help=f"Of suite work: {', '.join(BACKWARDS)}; default: the first two."
        ),
    ] = None,
    plots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for PNG plots; default: none are drawn."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON only.")
    ] = False,
) -> None:
    """Count the kernels' work, predict times on Apple GPUs, time what runs here.

    On a Mac the suite `gpu` times forward and backward beside PyTorch's attention,
    and beside MLX and mps-flash-attn where they are installed.  The suite `kernels`
    times each kernel beside its prediction, and fits the model's unknowns to the times.
    """
    chosen = _choose(suite)
    if backward is not None:
        if backward not in BACKWARDS:
            raise typer.BadParameter(
                f"--backward: {backward!r} is none of {[*BACKWARDS]}"
            )
        if "work" in chosen:
            chosen["work"] = partial(work, backwards=(backward,))
    torch.manual_seed(0)
    results = {name: _run(name, run, full, as_json) for name, run in chosen.items()}
    if plots is not None:
        try:
            draw(results, plots)
        except ImportError as error:
            raise typer.BadParameter(str(error)) from error
    if as_json:
        typer.echo(json.dumps(_report(results), indent=1))
    else:
        for name, rows in results.items():
            _print(name, rows)
        Console().print(NOTE)
    if any("error" in row for rows in results.values() for row in rows):
        raise typer.Exit(1)


def _choose(wanted: list[str] | None) -> dict[str, Suite]:
    known: dict[str, Suite] = dict(SUITES)
    if torch.backends.mps.is_available():
        known.update(MAC)
    for name in wanted or ():
        if name in MAC and name not in known:
            raise typer.BadParameter(f"{name}: this PyTorch sees no Apple GPU")
        if name not in known:
            raise typer.BadParameter(f"--suite: {name!r} is none of {[*known]}")
    here = [n for n in known if _native.has_simulator() or n in WITHOUT_SIMULATOR]
    return {name: known[name] for name in wanted or here}


def _run(name: str, run: Suite, full: bool, quiet: bool) -> list[Row]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    rows: list[Row] = []
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(name)
        try:
            for row in run(full):
                rows.append(row)
                progress.update(task, description=f"{name}: {len(rows)} results")
        except (orchard_ops.OrchardError, RuntimeError) as error:
            known = translate(error) if isinstance(error, RuntimeError) else error
            rows.append({"error": str(known)})
    return rows


def _report(results: dict[str, list[Row]]) -> dict[str, Any]:
    return {
        "orchard_ops": orchard_ops.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "note": NOTE,
        "suites": results,
    }


def _print(name: str, rows: list[Row]) -> None:
    """Print one table for each set of columns that the rows have."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(key for key in row if key != "kernels_ms"), []).append(
            row
        )
    for columns, members in groups.items():
        table = Table(title=name)
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in members:
            table.add_row(*(_text(row[column]) for column in columns))
        Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
