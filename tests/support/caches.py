"""Users' caches for tests that look at what is kept there besides kernels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

KEPT = ("verified", "tuned", "wrong-kernel-*")


def own_cache(name: str, factory: pytest.TempPathFactory) -> Path:
    """Return a cache of this process's own, without entries.

    Where sessions share compiled kernels it lies beside those, with what earlier runs
    of the same tests compiled: that takes most of their time.
    """
    shared = os.environ.get("ORCHARD_CACHE_DIR")
    if not shared:
        return factory.mktemp(name)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    folder = Path(shared) / f"{name}-{worker}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    forget(folder)
    return folder


def forget(folder: Path) -> None:
    """Remove all entries; compiled kernels stay."""
    for pattern in KEPT:
        for left in folder.glob(pattern):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
