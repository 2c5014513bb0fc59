"""The lines of Metal that an error is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._errors import FaultError, KernelCompileError

__all__ = ["excerpt", "explained"]

_AROUND = 2  # lines before and after


@contextmanager
def explained(name: str, text: str) -> Iterator[None]:
    """Give the errors of a block the lines of Metal that they are about.

    Args:
        name: what the compiler was told that the text's file is called.
        text: the text.
    """
    try:
        yield
    except (FaultError, KernelCompileError) as error:
        if isinstance(error, FaultError) and error.line and _is(error.file, name):
            error.file = name
        if error.file is not None and error.line is not None:
            whole = text if error.file == name else _read(error.file)
            error.source = excerpt(whole, error.line)
        raise


def excerpt(text: str, line: int) -> str | None:
    """Return the lines around one, numbered, itself marked; None if there is none."""
    lines = text.splitlines()
    if not 1 <= line <= len(lines):
        return None
    first, last = max(line - _AROUND, 1), min(line + _AROUND, len(lines))
    width = len(str(last))
    return "\n".join(
        f"{'>' if n == line else ' '} {n:{width}} | {lines[n - 1]}".rstrip()
        for n in range(first, last + 1)
    )


def _is(file: str | None, name: str) -> bool:
    """Say whether a fault's file is a text; line tables may leave out its folders."""
    if file is None:
        return True
    return Path(name).absolute().as_posix().endswith(f"/{file.lstrip('/')}")


def _read(file: str) -> str:
    path = Path(file)
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
