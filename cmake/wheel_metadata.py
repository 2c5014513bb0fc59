"""Tell scikit-build-core what a wheel requires: the PyTorch that it was built for.

The compiled operators serve one PyTorch minor version, so what is built from source
must not be installed beside another one.  ``pyproject.toml`` names this module as the
source of ``project.dependencies``; packaging/pack.py uses ``requirements`` for wheels
that hold libraries for many.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import find_torch

if sys.version_info >= (3, 11):
    import tomllib
else:  # scikit-build-core brings it where Python lacks it.
    import tomli as tomllib

MATRIX = Path(__file__).resolve().parent.parent / "versions.toml"


def requirements(minors: Collection[str]) -> list[str]:
    """Return what a wheel requires that holds libraries for some PyTorch minors."""
    if len(minors) > 1:
        # What is newer than all of them gets an error of ours that says what to do.
        oldest = min(minors, key=lambda minor: tuple(map(int, minor.split("."))))
        return [f"torch>={oldest}"]
    (minor,) = minors
    entries = tomllib.loads(MATRIX.read_text(encoding="utf-8"))["torch"].values()
    bounds = {entry["version"].rpartition(".")[0]: entry["numpy"] for entry in entries}
    numpy = bounds.get(minor, "numpy")
    # NumPy is PyTorch's option; only a bound on it is ours to pass on.
    return [f"torch=={minor}.*", *([numpy] if numpy != "numpy" else [])]


def dynamic_metadata(field: str, _settings: Mapping[str, Any]) -> list[str]:
    """Return the requirements of a wheel (a hook of scikit-build-core).

    pip asks for them before it downloads any requirement, so a missing PyTorch is
    an error here and not after it has fetched one that nothing is built for.
    """
    assert field == "dependencies", field
    find_torch.check_platform()
    version = find_torch.torch_version(find_torch.torch_root())
    return requirements([version.rpartition(".")[0]])
