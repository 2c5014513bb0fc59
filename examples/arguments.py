"""The command line that all examples share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

import orchard_ops


def parse(
    text: str | None, steps: int, argv: Sequence[str] | None = None
) -> tuple[torch.device, int]:
    """Read ``--device`` and ``--steps``; return a device that is ready for use.

    Without ``--device`` that is the GPU of a Mac, and elsewhere ``metalsim``, the
    simulator, which runs the same Metal kernels on the CPU.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--device", choices=("mps", "metalsim", "cpu"))
    parser.add_argument("--steps", type=int, default=steps)
    options = parser.parse_args(argv)
    if options.device is None:
        options.device = "mps" if torch.backends.mps.is_available() else "metalsim"
    if options.device == "metalsim":
        # Before the first backward pass, because autograd counts devices only once.
        orchard_ops.sim.enable()
    return torch.device(options.device), options.steps
