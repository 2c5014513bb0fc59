"""Another Python that imports what this one does, wherever it is started."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["python"]


def python(text: str, *arguments: str) -> list[str]:
    """Return the command that runs a text in a process of its own.

    By itself a child looks into the current folder first: in a checkout it would find
    the source folder, which has no libraries, instead of the installed package.
    """
    paths = [str(Path(path).absolute()) for path in sys.path]
    start = f"import sys\nsys.path[:] = {paths!r}\n"
    return [sys.executable, "-c", start + text, *arguments]
