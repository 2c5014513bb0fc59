"""Write every launch of a kernel to files, so that it can be run elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Union

from . import _native
from ._errors import InvalidProblemError, translate

__all__ = ["record"]


class record:  # noqa: N801  Like torch.no_grad, a function that is entered.
    """Record every kernel launch inside ``with``, of all threads, into a folder.

    Each launch becomes a folder, numbered in order: the specialised kernel as one
    self-contained Metal text, the grid and the bindings (``launch.json``), and the
    bytes of every binding before and after.  ``orchard-ops replay PATH`` runs them on
    the simulator, on any machine that has it, and compares.

    While it records, launches wait for each other and for the GPU, and every tensor
    that a kernel reads or writes is copied to a file: record one small step.

    Args:
        path: a folder that is new or empty; what is written is private to the user.

    Raises:
        InvalidProblemError: it holds something, or cannot be made.
        DeviceError: no operators are loaded, another recording goes on, or, from an
            attention inside the block, a file cannot be written.

    >>> with orchard_ops.record("step-1"):
    ...     loss(model(x)).backward()
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:  # noqa: UP007
        self.path = Path(path).absolute()

    def __enter__(self) -> record:
        """Make the folder and begin."""
        _native.require_loaded("record")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_empty = not any(self.path.iterdir())
        except OSError as error:
            raise InvalidProblemError(f"[record] no such folder: {error}") from error
        if not is_empty:
            raise InvalidProblemError(
                f"[record] expected a new or empty folder, but {self.path} holds "
                "files; name another"
            )
        _record_into(str(self.path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        _record_into("")


def _record_into(folder: str) -> None:
    try:
        _native.ops.record_into(folder)
    except RuntimeError as error:
        raise translate(error) from error
