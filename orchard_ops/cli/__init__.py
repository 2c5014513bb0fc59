"""The command ``orchard-ops``: a thin face of the public functions."""

from __future__ import annotations

try:
    import typer
except ImportError as error:
    raise ImportError(
        "the command line needs typer and rich: pip install 'orchard-ops[cli]'"
    ) from error

from . import bench, doctor, replay, train

__all__ = ["app"]

app = typer.Typer(
    help="Flash attention for PyTorch on Apple GPUs and their simulator.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.command()(replay.replay)
app.command()(train.train)
