"""The project's tree and its two tables."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def table(name: str, root: Path = ROOT) -> dict[str, Any]:
    """Return a TOML file of a tree, of the project's own by default."""
    try:
        import tomllib
    except ImportError:  # Python 3.10 and older.
        import tomli as tomllib
    found: dict[str, Any] = tomllib.loads((root / name).read_text(encoding="utf-8"))
    return found


def versions() -> dict[str, Any]:
    """Return versions.toml."""
    return table("versions.toml")


def minor(version: str) -> str:
    """Return the minor version that a version belongs to."""
    return version.rpartition(".")[0]


def python_tag(version: str) -> str:
    """Return the tag of a Python, "3.11", in wheels' names; of its ABI too."""
    return f"cp{version.replace('.', '')}"


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def default_python() -> str:
    """Return the Python of the PyTorch that is built where nobody names another."""
    matrix = versions()
    return str(matrix["torch"][matrix["package"]["default"]]["python"])


def default_torch() -> str:
    """Return the PyTorch that is built where nobody names another."""
    matrix = versions()
    return str(matrix["torch"][matrix["package"]["default"]]["version"])


def macos_targets(matrix: dict[str, Any], version: str) -> list[str]:
    """Return the deployment targets that a PyTorch has packages for."""
    lowest = float(matrix["wheels"]["torch"][version])
    known: list[str] = matrix["macos"]["deployment_targets"]
    return [target for target in known if float(target) >= lowest]


class Failure(SystemExit):
    """What makes a package unfit, one sentence a line."""
