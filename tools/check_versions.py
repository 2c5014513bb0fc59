"""Check that every place that names a version agrees with versions.toml.

Usage: python tools/check_versions.py (exits 1 and names what disagrees)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    """Return the text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def disagreements(matrix: dict[str, Any], project: dict[str, Any]) -> list[str]:
    """Return one sentence for each place that disagrees."""
    extras, entries = project["optional-dependencies"], matrix["torch"].values()
    minors = [entry["version"].rpartition(".")[0] for entry in entries]
    pythons, zig = matrix["package"]["python"], matrix["package"]["ziglang"]
    oldest = tuple(map(int, minors[0].split(".")))
    readme = read("README.md")
    heading = f"\n## {project['version']} "
    claims = {
        f"pyproject.toml: must pin ziglang {zig}": f"ziglang=={zig}" in extras["sim"],
        "pyproject.toml: wrong torch": f"torch>={minors[0]}" in project["dependencies"],
        "pyproject.toml: wrong Python": project["requires-python"] == f">={pythons[0]}",
        "find_torch.py: wrong OLDEST": f"= {oldest}\n" in read("cmake/find_torch.py"),
        f"CHANGELOG.md: no heading{heading}": heading in read("CHANGELOG.md"),
    }
    for entry in entries:
        claims[f"README.md: no {entry['version']}"] = entry["version"] in readme
    return [sentence for sentence, holds in claims.items() if not holds]


def main() -> None:
    """Print what disagrees and exit accordingly."""
    matrix = tomllib.loads(read("versions.toml"))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    found = disagreements(matrix, project)
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
