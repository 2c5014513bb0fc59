"""A run of `orchard_ops.tune`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Callable

import torch

from .._device import choose_device
from .._errors import InvalidProblemError
from .meters import meter_for
from .search import Finding, Progress, Tuner
from .shapes import COMMON, Shape, classes_of, parse_shape
from .store import keep, kept

__all__ = ["run"]

MOST_CANDIDATES = 64
TUNED = {
    "forward": ("forward",),
    "backward": ("backward_dkdv", "backward_dq", "backward_dq_spilled", "scratch"),
    "decode": ("decode", "threadgroups"),
}
"""What each pass chooses."""


def run(
    shapes: Iterable[str] | None,
    device: str | None,
    candidates: int,
    budget: float | None,
    progress: Progress | None,
    found: Callable[[Finding], object] | None,
) -> list[Finding]:
    """Do what `orchard_ops.tune` says."""
    wanted = [parse_shape(text) for text in shapes] if shapes is not None else COMMON
    _check(wanted, candidates, budget)
    like = torch.zeros(1).to(choose_device(device))
    deadline = math.inf if budget is None else time.monotonic() + budget
    tuner = Tuner(
        *(like, meter_for(like)),
        candidates=candidates,
        deadline=deadline,
        progress=progress,
    )
    return list(_found(tuner, like, wanted, found or _say_nothing))


def _say_nothing(finding: Finding) -> None:
    """Be told of a result."""


def _found(
    tuner: Tuner,
    like: torch.Tensor,
    shapes: Iterable[Shape],
    tell: Callable[[Finding], object],
) -> Iterator[Finding]:
    """Tune classes one after the other; keep what each pass has found, at once."""
    classes = classes_of(shapes)
    tuner.expect(classes)
    for of, members in classes.items():
        for choices, findings in tuner.tune(of, members):
            mine = kept(like)
            # A pass that the budget ended says nothing against what was found before.
            if choices.values or choices.routes or not tuner.is_over():
                mine.forget(of, *TUNED[findings[0].which])
                mine.add(choices)
                keep(like, mine)
            for finding in findings:
                tell(finding)
                yield finding


def _check(shapes: Iterable[Shape], candidates: int, budget: float | None) -> None:
    if not list(shapes):
        raise InvalidProblemError("[tune] expected at least one shape, got none")
    if not 2 <= candidates <= MOST_CANDIDATES:
        raise InvalidProblemError(
            f"[tune] expected candidates from 2 to {MOST_CANDIDATES}, got {candidates}"
        )
    if budget is not None and not budget > 0:
        raise InvalidProblemError(
            f"[tune] expected a budget of more than 0 seconds, got {budget}"
        )
