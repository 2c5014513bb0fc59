"""Break a copy of the tree, to see that it is noticed."""

from __future__ import annotations

from pathlib import Path


def replace(file: Path, old: str, new: str, count: int = 1) -> None:
    """Replace a text that must stand in the file: once, or all if count is -1."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, count), encoding="utf-8")
