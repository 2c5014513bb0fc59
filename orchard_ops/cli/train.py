"""``orchard-ops train``: the demo."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import orchard_ops

from .._demo.comparison import MAX_LOSS_GAP, Comparison, Result
from .._demo.corpus import read_corpus, standard_library
from .._demo.gpt import Shape
from .._demo.ranks import started
from .._device import choose_device

__all__ = ["train"]


def train(
    data: Annotated[
        Path, typer.Option(help="Directory of source code; default: Python's own.")
    ] = standard_library(),  # noqa: B008 (a constant of the interpreter)
    plot: Annotated[Path, typer.Option(help="Where the loss curves go.")] = Path(
        "orchard-demo.png"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    ranks: Annotated[
        int, typer.Option(min=1, help="Processes that share each sequence.")
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON only.")
    ] = False,
) -> None:
    """Train a byte-level GPT through the kernels, beside PyTorch on the CPU.

    Both models start from the same weights and see the same batches.  The exit
    status is 1 if their losses ever differ by more than 0.001 nats.  With --ranks the
    first is trained by so many processes, each with its part of every sequence.
    """
    shape = Shape()
    try:
        device = choose_device()
        text = read_corpus(data, least_bytes=shape.batch * shape.length)
    except orchard_ops.DeviceError as error:
        raise typer.BadParameter(f"{error} (see orchard-ops doctor)") from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # Operators this small are slower on several threads (10 times, on two busy
    # cores); the simulator brings threads of its own.
    torch.set_num_threads(1)
    started = time.monotonic()
    with _group(ranks, data, steps, seed):
        comparison = Comparison(shape, device, text, seed, is_divided=ranks > 1)
        result = _run(comparison, steps, quiet=as_json)
    seconds = time.monotonic() - started
    _draw(result, device, plot)
    if as_json:
        typer.echo(json.dumps(_report(result, device, plot, seconds), indent=2))
    else:
        _print(result, device, plot, seconds)
    if result.has_parted:
        raise typer.Exit(1)


def _group(
    ranks: int, data: Path, steps: int, seed: int
) -> contextlib.AbstractContextManager[None]:
    """Return the other processes of the training as a block; none for one rank."""
    if ranks == 1:
        return contextlib.nullcontext()
    return started(ranks, data, steps, seed)


def _run(comparison: Comparison, steps: int, quiet: bool) -> Result:
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[ours]:.4f}  PyTorch {task.fields[theirs]:.4f}"),
    )
    nothing = float("nan")
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("training", total=steps, ours=nothing, theirs=nothing)
        for _ in range(steps):
            comparison.step()
            result = comparison.result
            progress.update(
                task,
                advance=1,
                ours=result.losses[-1],
                theirs=result.losses_torch[-1],
            )
    return comparison.result


def _draw(result: Result, device: torch.device, path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise typer.BadParameter(
            "the plot needs matplotlib: pip install 'orchard-ops[demo]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(result.losses_torch, label="PyTorch SDPA, CPU", linewidth=4, alpha=0.35)
    axes.plot(result.losses, label=f"orchard_ops, {device.type}", linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per byte)")
    axes.set_title(
        f"Byte-level GPT on source code; largest gap {max(result.gaps):.1e} nats"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _report(
    result: Result, device: torch.device, plot: Path, seconds: float
) -> dict[str, object]:
    return {
        "device": device.type,
        "torch": torch.__version__,
        "steps": len(result.losses),
        "seconds": round(seconds, 1),
        "first_loss": result.losses[0],
        "final_loss": result.losses[-1],
        "final_loss_torch": result.losses_torch[-1],
        "final_gap": result.gaps[-1],
        "largest_gap": max(result.gaps),
        "allowed_gap": MAX_LOSS_GAP,
        "has_parted": result.has_parted,
        "gradient_error": result.gradient_error,
        "gradient_error_torch": result.gradient_error_torch,
        "storage_modes": sorted(result.storage_modes),
        "calls_forward": result.calls_forward,
        "calls_backward": result.calls_backward,
        "copies": result.copies,
        "plot": str(plot),
    }


def _print(result: Result, device: torch.device, plot: Path, seconds: float) -> None:
    verdict = "[red]the curves part" if result.has_parted else "[green]they agree"
    table = Table(title=f"orchard_ops on {device.type}, {len(result.losses)} steps")
    table.add_column("")
    table.add_column("value", justify="right")
    rows = [
        ("loss at the first step", f"{result.losses[0]:.4f}"),
        ("final loss, orchard_ops", f"{result.losses[-1]:.6f}"),
        ("final loss, PyTorch on the CPU", f"{result.losses_torch[-1]:.6f}"),
        ("their difference", f"{result.gaps[-1]:.2e}"),
        (f"largest difference (allowed {MAX_LOSS_GAP})", f"{max(result.gaps):.2e}"),
        ("verdict", verdict),
        ("worst gradient error, step 0", f"{result.gradient_error:.2e}"),
        ("… of PyTorch in float32", f"{result.gradient_error_torch:.2e}"),
        ("storage modes seen", ", ".join(sorted(result.storage_modes))),
        ("kernel calls FWD / BWD", f"{result.calls_forward} / {result.calls_backward}"),
        ("copies made by the bridge", str(result.copies)),
        ("seconds", f"{seconds:.1f}"),
        ("loss curves", escape(str(plot))),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
