"""Run the command line as ``python -m orchard_ops.cli``."""

from __future__ import annotations

from . import app

app(prog_name="orchard-ops")
