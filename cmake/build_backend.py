"""The build backend: scikit-build-core's, and packages with the same bytes each time.

It tells the build when the source is from (source_date.py), writes each archive again
(archives.py) and puts an SBOM into each wheel (sbom.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import archives
import find_torch
import sbom
import source_date
from scikit_build_core import build as scikit
from scikit_build_core.build import *  # noqa: F403  What is not changed here.

# For all that the build starts, too.
WHEN = source_date.epoch()
os.environ["SOURCE_DATE_EPOCH"] = str(WHEN)


def compiled_in(names: Iterable[str]) -> list[sbom.Component]:
    """Return what of others is compiled into a wheel of these files."""
    # A packager's own headers are of no version that we know.
    is_named = "ORCHARD_METAL_CPP_DIR" in os.environ.get("SKBUILD_CMAKE_DEFINE", "")
    headers = None if is_named else sbom.version_of("mlx-metal")
    torch = find_torch.torch_version(find_torch.torch_root())
    return sbom.compiled_in(names, [torch], headers)


def settle_wheel(path: Path) -> None:
    """Write a wheel again, with its SBOM."""
    files = archives.read_wheel(path)
    info = next(n for n in files if n.endswith(".dist-info/WHEEL")).partition("/")[0]
    project, version = info.removesuffix(".dist-info").split("-")
    tool = ("scikit-build-core", sbom.version_of("scikit-build-core") or "?")
    parts = compiled_in(files)
    text = sbom.document(project.replace("_", "-"), version, WHEN, parts, [tool])
    files[f"{info}/{sbom.NAME}"] = text, False
    archives.write_wheel(path, files, WHEN)


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build a wheel (a hook of PEP 517)."""
    name = scikit.build_wheel(wheel_directory, config_settings, metadata_directory)
    settle_wheel(Path(wheel_directory, name))
    return name


def build_sdist(
    sdist_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    """Build a source distribution (a hook of PEP 517)."""
    name = scikit.build_sdist(sdist_directory, config_settings)
    archives.settle_sdist(Path(sdist_directory, name), WHEN)
    return name
