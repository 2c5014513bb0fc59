"""Say what is inside a package and what it was built with: CycloneDX 1.6, as JSON.

A wheel keeps it in ``.dist-info/sboms/`` (PEP 770), and so do the conda and Nix
packages, which hold the same folder.  Packages of the same source have the same text.
"""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

NAME = "sboms/orchard-ops.cdx.json"


@dataclass(frozen=True)
class Component:
    """Something that is compiled into a package, or that it was built with."""

    name: str
    version: str | None  # None where nobody knows, such as a packager's own headers.
    licence: str  # As SPDX names it.
    why: str
    project: str | None = None  # On PyPI; None: it has another name than this.

    @property
    def purl(self) -> str:
        """Return the component's address among all packages."""
        at = f"@{self.version}" if self.version else ""
        return f"pkg:pypi/{self.project or self.name}{at}"

    def entry(self) -> dict[str, object]:
        """Return what the document says of it."""
        version = {"version": self.version} if self.version else {}
        return {
            "type": "library",
            "bom-ref": self.purl,
            "name": self.name,
            **version,
            "description": self.why,
            "licenses": [{"license": {"id": self.licence}}],
            "purl": self.purl,
        }


def pytorch(version: str) -> Component:
    """Return the PyTorch that the operators are compiled for."""
    why = "headers compiled in; the library is the user's own, and is not in here"
    return Component("torch", version, "BSD-3-Clause", why)


def pybind11(version: str | None) -> Component:
    """Return what the simulator's Python module is written with."""
    return Component("pybind11", version, "BSD-3-Clause", "headers compiled in")


def metal_cpp(version: str | None) -> Component:
    """Return Apple's headers; the version is that of the package they came in."""
    why = "Apple's headers compiled in, from mlx-metal of this version"
    if version is None:
        why = "Apple's headers compiled in, from a folder that the packager named"
    return Component("metal-cpp", version, "Apache-2.0", why, project="mlx-metal")


def version_of(project: str) -> str | None:
    """Return the version of an installed project; None if it is not known."""
    try:
        return importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return None


def compiled_in(
    files: Iterable[str], torches: Iterable[str], headers: str | None
) -> list[Component]:
    """Return what of others is in a wheel.

    Args:
        files: the names of its files.
        torches: the versions of PyTorch that it has libraries for.
        headers: the version of mlx-metal that metal-cpp came in, if one did.
    """
    names, found = list(files), [pytorch(version) for version in torches]
    if any("/_sim." in name for name in names):
        found.append(pybind11(version_of("pybind11")))
    if any(name.endswith(".dylib") for name in names):
        found.append(metal_cpp(headers))
    return found


def document(
    name: str,
    version: str,
    time: int,
    components: Iterable[Component],
    tools: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return the document of a package."""
    parts = sorted(components, key=lambda part: (part.purl, part.name))
    ours = f"pkg:pypi/{name}@{version}"
    licences = sorted({"MIT", *(p.licence for p in parts if p.name == "metal-cpp")})
    made = {
        "metadata": {
            "timestamp": datetime.fromtimestamp(time, timezone.utc).isoformat(),
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [
                    {"type": "application", "name": tool, "version": number}
                    for tool, number in sorted(tools)
                ]
            },
            "component": {
                "type": "library",
                "bom-ref": ours,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": licence}} for licence in licences],
                "purl": ours,
            },
        },
        "components": [part.entry() for part in parts],
        "dependencies": [
            {"ref": ours, "dependsOn": [part.purl for part in parts]},
            *({"ref": part.purl} for part in parts),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(made, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return json.dumps({**head, **made}, indent=1).encode() + b"\n"
