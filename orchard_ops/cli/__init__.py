"""The command ``orchard-ops``: a thin face of the public functions."""

from __future__ import annotations

import sys
from typing import Any

from .._libraries import HAS_TORCH

__all__ = ["app"]


def _without_typer(**_: Any) -> None:
    """Say what the command needs: a sentence, not a traceback."""
    sys.exit(
        "orchard-ops: the command line needs typer and rich: "
        "pip install 'orchard-ops[cli]'"
    )


app: Any = _without_typer
try:
    import rich  # noqa: F401
    import typer
except ImportError:
    pass
else:
    from . import sim

    app = typer.Typer(
        help="Flash attention for PyTorch on Apple GPUs and their simulator.",
        no_args_is_help=True,
        add_completion=False,
    )
    app.add_typer(sim.app, name="sim")
    if HAS_TORCH:  # sim needs none.
        from . import bench, doctor, replay, train, tune

        app.command()(bench.bench)
        app.command()(doctor.doctor)
        app.command()(replay.replay)
        app.command()(train.train)
        app.command()(tune.tune)
