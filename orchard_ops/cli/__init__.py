"""The command ``orchard-ops``: a thin face of the public functions."""

from __future__ import annotations

import sys
from typing import Any

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
    from . import bench, doctor, replay, train, tune

    app = typer.Typer(
        help="Flash attention for PyTorch on Apple GPUs and their simulator.",
        no_args_is_help=True,
        add_completion=False,
    )
    app.command()(bench.bench)
    app.command()(doctor.doctor)
    app.command()(replay.replay)
    app.command()(train.train)
    app.command()(tune.tune)
