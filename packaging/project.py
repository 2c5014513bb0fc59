"""The project's tree and its two tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def table(name: str) -> dict[str, Any]:
    """Return a TOML file of the project."""
    try:
        import tomllib
    except ImportError:  # Python 3.10 and older.
        import tomli as tomllib
    found: dict[str, Any] = tomllib.loads((ROOT / name).read_text(encoding="utf-8"))
    return found


def versions() -> dict[str, Any]:
    """Return versions.toml."""
    return table("versions.toml")


class Failure(SystemExit):
    """What makes a package unfit, one sentence a line."""
