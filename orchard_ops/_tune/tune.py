"""The public function.  What it needs is imported when it is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .search import Finding, Progress

__all__ = ["tune"]


def tune(
    shapes: Iterable[str] | None = None,
    *,
    device: str | None = None,
    candidates: int = 12,
    budget: float | None = None,
    progress: Progress | None = None,
    found: Callable[[Finding], object] | None = None,
) -> list[Finding]:
    """Measure tiles on this device, and use the fastest from the next call on.

    For each dtype and head size of the shapes, some tiles of each kernel are compiled,
    their results compared with those of the shipped tiles, and their times taken in
    turns with theirs: so are a backward that keeps the gradients of the scores and one
    that computes them twice, sizes of its scratch, and the splits of decoding steps.
    What is faster by more than the noise is kept in the user's cache, for this GPU,
    system, PyTorch and version of the package, after each pass: whoever interrupts it
    keeps what was found until then.  On the simulator the cost model says the times.

    Args:
        shapes: texts ``B,H,HKV,LQ,LK,D[,dtype][,causal][,decode]``; None: those of
            common models.
        device: ``mps`` or ``metalsim``; None: the GPU if there is one.
        candidates: how many tiles of each kernel are tried, from 2 to 64.
        budget: seconds after which nothing new is tried; None: no limit.
        progress: called with what is done now, and the share of all that is done.
        found: called with each of the results when it is kept.

    Returns:
        The times of each shape and pass, with what ships and with what was chosen.

    Raises:
        InvalidProblemError: a shape or a number makes no sense.
        DeviceError: the device is not here.
    """
    from .session import run

    return run(shapes, device, candidates, budget, progress, found)
