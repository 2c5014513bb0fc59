"""Check that every place that names a version agrees with versions.toml.

Usage: python tools/check_versions.py (exits 1 and names what disagrees)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packaging"))
from conda import variants  # noqa: E402
from project import minor  # noqa: E402

from nix import wheels  # noqa: E402

# Documents that name every PyTorch, by version or by minor.
NAMED_IN = {
    "README.md": "{version}",
    "docs/packaging.md": "| {minor} |",
    "docs/nix.md": "orchard-ops-{name}`",
}
# Texts that tell a user which zig to take.
ZIG_IN = ("orchard_ops/sim/_compiler.py", "CONTRIBUTING.md", "docs/packaging.md")
# Extras that nix/package.nix offers too.
NIX_EXTRAS = ("sim", "cli", "demo", "bench", "test")


class Tree:
    """The texts of a source tree."""

    def __init__(self, root: Path) -> None:
        """Read a tree's tables."""
        self.root = root
        self.matrix: dict[str, Any] = tomllib.loads(self.read("versions.toml"))
        self.pyproject = tomllib.loads(self.read("pyproject.toml"))
        self.entries: list[dict[str, Any]] = list(self.matrix["torch"].values())

    def read(self, name: str) -> str:
        """Return the text of a file of the project."""
        return (self.root / name).read_text(encoding="utf-8")


def matrix_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for the matrix itself."""
    macos, pythons = tree.matrix["macos"], tree.matrix["package"]["python"]
    targets = macos["deployment_targets"]
    claims = {
        f"versions.toml: no SDK for macOS {target}": target in macos["sdk"]
        for target in targets
    }
    wheels = tree.matrix["wheels"]["torch"]
    minors = [tuple(map(int, minor(version).split("."))) for version in wheels]
    first, last = minors[0], minors[-1]
    claims |= {
        "versions.toml: [wheels.torch] has a gap or another order": (
            minors == [(first[0], number) for number in range(first[1], last[1] + 1)]
        ),
        "find_torch.py: wrong OLDEST_MACOS": (
            f"OLDEST_MACOS = {int(min(map(float, wheels.values())))}\n"
            in tree.read("cmake/find_torch.py")
        ),
    }
    for name, entry in (tree.matrix["torch"] | tree.matrix["between"]).items():
        version = entry["version"]
        digits = minor(version).replace(".", "")
        claims |= {
            f"versions.toml: {name} is not torch{digits}": name == f"torch{digits}",
            f"versions.toml: no oldest macOS for {version}": (
                wheels.get(version) in targets
            ),
            f"versions.toml: {name}: unknown Python": (
                {entry["python"], *entry["pythons"]} <= set(pythons)
            ),
        }
    return claims


def build_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for what the build and pip read."""
    project, zig = tree.pyproject["project"], tree.matrix["package"]["ziglang"]
    oldest = tuple(map(int, minor(tree.entries[0]["version"]).split(".")))
    pythons = tree.matrix["package"]["python"]
    heading = f"\n## {project['version']} "
    return {
        f"{name}: no zig {zig}": re.search(rf"\b{re.escape(zig)}\b", tree.read(name))
        is not None
        for name in ZIG_IN
    } | {
        f"pyproject.toml: must pin ziglang {zig}": (
            f"ziglang=={zig}" in project["optional-dependencies"]["sim"]
        ),
        "pyproject.toml: torch must come from cmake/wheel_metadata.py": (
            project["dynamic"] == ["dependencies"]
        ),
        "pyproject.toml: wrong Python": project["requires-python"] == f">={pythons[0]}",
        "find_torch.py: wrong OLDEST": (
            f"OLDEST = {oldest}\n" in tree.read("cmake/find_torch.py")
        ),
        f"CHANGELOG.md: no heading{heading}": heading in tree.read("CHANGELOG.md"),
        f"CITATION.cff: no version {project['version']}": (
            f"\nversion: {project['version']}\n" in tree.read("CITATION.cff")
        ),
        ".ci/run: versions belong into versions.toml": (
            re.search(r"torch|\d+\.\d+", tree.read(".ci/run")) is None
        ),
    }


def conda_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for the conda recipe."""
    project, recipe = tree.pyproject["project"], tree.read("recipe/recipe.yaml")
    needs = [n for n in tree.pyproject["build-system"]["requires"] if ";" not in n]
    needs += project["optional-dependencies"]["cli"]
    claims = {
        f"{name}: run python packaging conda.variants": tree.read(name) == text
        for name, text in variants.variant_files(tree.matrix).items()
    }
    for need in needs:
        wanted = need.replace(">=", " >=")
        claims[f"recipe.yaml: no {wanted}"] = f"- {wanted}\n" in recipe
    command, function = next(iter(project["scripts"].items()))
    return claims | {
        "recipe.yaml: wrong version": f'\n  version: "{project["version"]}"\n'
        in recipe,
        "recipe.yaml: wrong zig": set(re.findall(r"zig ==([\d.]+)", recipe))
        == {tree.matrix["package"]["ziglang"]},
        "recipe.yaml: wrong Pythons for macOS": (
            f"then: python {project['requires-python']} " in recipe
        ),
        "recipe.yaml: wrong command": f"- {command} = {function}\n" in recipe,
    }


def wheel_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for what the documents say of the wheels."""
    versions = list(tree.matrix["wheels"]["torch"])
    span = f"{minor(versions[0])} to {minor(versions[-1])}"
    return {
        f"{name}: the wheels' PyTorches are not {span}": f"PyTorch {span}"
        in " ".join(tree.read(name).split())
        for name in ("README.md", "docs/packaging.md")
    }


def document_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for what the documents name."""
    releases = tree.matrix["transformers"]
    extra = f"transformers>={minor(releases['oldest']['version'])}"
    claims = {
        f"docs/transformers.md: no {release['version']}": (
            release["version"] in tree.read("docs/transformers.md")
        )
        for release in releases.values()
    }
    claims[f"pyproject.toml: no {extra}"] = tree.pyproject["project"][
        "optional-dependencies"
    ]["transformers"] == [extra]
    return claims | {
        f"{file}: no {entry['version']}": (
            pattern.format(
                name=name, version=entry["version"], minor=minor(entry["version"])
            )
            in tree.read(file)
        )
        for file, pattern in NAMED_IN.items()
        for name, entry in tree.matrix["torch"].items()
    }


def requirements(extras: dict[str, Any], extra: str) -> set[str]:
    """Return the names of what an extra of pyproject.toml requires, in the end."""
    found = set()
    for need in extras[extra]:
        if inner := re.fullmatch(r"orchard-ops\[(.+)\]", need):
            for name in inner[1].split(","):
                found |= requirements(extras, name)
        else:
            found.add(re.split(r"[=<>~!;\[ ]", need)[0])
    return found


def nix_requirements(text: str, extra: str) -> set[str]:
    """Return the names of what an extra of nix/package.nix requires, in the end."""
    found: set[str] = set()
    value = re.search(rf"\n    {extra} =(.*?);", text, re.S)
    for name in re.findall(r"[\w-]+", value[1] if value else ""):
        found |= nix_requirements(text, name) if name in NIX_EXTRAS else {name}
    return found


def nix_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for what the flake reads."""
    package = tree.read("nix/package.nix")
    extras = tree.pyproject["project"]["optional-dependencies"]
    pinned = wheels.flat(json.loads(tree.read("nix/wheels.json")))
    return {
        "nix/wheels.json: run nox -s nix-wheels": (
            pinned.keys() == set(wheels.needed(tree.matrix))
        )
    } | {
        f"nix/package.nix: {extra} is not pyproject.toml's": (
            nix_requirements(package, extra) == requirements(extras, extra)
        )
        for extra in NIX_EXTRAS
    }


def workflow_claims(tree: Tree) -> dict[str, bool]:
    """Return sentence → truth for the workflows: the Mac's tests every PyTorch."""
    names = list(tree.matrix["torch"])
    mac, tests = (tree.read(f".github/workflows/{n}.yml") for n in ("mac-gpu", "tests"))
    known = {f"test-{name}" for name in (*names, *tree.matrix["between"])}
    asked = set(re.findall(r"\btest-torch\d+", tests))
    version = tree.matrix["torch"][tree.matrix["package"]["default"]]["version"]
    return {
        f"tests.yml: cross-builds another PyTorch than {version}": (
            f"--torch {version} " in tests and f"torch=={minor(version)}.*" in tests
        ),
        f"mac-gpu.yml: torch is not [{', '.join(names)}]": (
            f"torch: [{', '.join(names)}]\n" in mac
        ),
        f"tests.yml: no session {sorted(asked - known)}": bool(asked)
        and asked <= known,
    }


def disagreements(root: Path) -> list[str]:
    """Return one sentence for each place of a source tree that disagrees."""
    tree = Tree(root)
    claims = matrix_claims(tree)
    if all(claims.values()):  # What follows builds on a sound matrix.
        claims |= build_claims(tree) | conda_claims(tree) | document_claims(tree)
        claims |= workflow_claims(tree) | nix_claims(tree) | wheel_claims(tree)
    return [sentence for sentence, holds in claims.items() if not holds]


def main() -> None:
    """Print what disagrees and exit accordingly."""
    sys.exit("\n".join(disagreements(ROOT)) or 0)


if __name__ == "__main__":
    main()
