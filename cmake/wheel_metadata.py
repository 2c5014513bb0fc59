"""Tell scikit-build-core what a wheel requires: the PyTorch that it was built for.

The compiled operators serve one PyTorch minor version, so a wheel must not be
installed beside another one.  ``pyproject.toml`` names this module as the source
of ``project.dependencies``; tools/macos_wheels.py uses ``requirements`` too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import find_torch

if sys.version_info >= (3, 11):
    import tomllib
else:  # scikit-build-core brings it where Python lacks it.
    import tomli as tomllib

MATRIX = Path(__file__).resolve().parent.parent / "versions.toml"


def requirements(version: str) -> list[str]:
    """Return what a wheel built for a PyTorch version requires."""
    minor = version.rpartition(".")[0]
    entries = tomllib.loads(MATRIX.read_text(encoding="utf-8"))["torch"].values()
    bounds = {entry["version"].rpartition(".")[0]: entry["numpy"] for entry in entries}
    numpy = bounds.get(minor, "numpy")
    # NumPy is PyTorch's option; only a bound on it is ours to pass on.
    return [f"torch=={minor}.*", *([numpy] if numpy != "numpy" else [])]


class Provider:
    """The hooks of scikit-build-core's dynamic metadata."""

    state = ""

    def build_state(self, state: str) -> None:
        """Take what is being built: a wheel, a source distribution, …"""
        self.state = state

    def dynamic_wheel(self, _settings: Mapping[str, Any]) -> dict[str, bool]:
        """Say that wheels made from one source distribution differ in this."""
        return {"dependencies": True}

    def dynamic_metadata(
        self, _settings: Mapping[str, Any], _project: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the requirements; without a PyTorch only an sdist is possible.

        pip asks this before it downloads any requirement, so a missing PyTorch
        is an error here and not after it has fetched one that is not built for.
        """
        if self.state == "sdist":
            oldest = ".".join(map(str, find_torch.OLDEST))
            return {"dependencies": [f"torch>={oldest}"]}
        version = find_torch.torch_version(find_torch.torch_root())
        return {"dependencies": requirements(version)}
