"""Check the locks, and that all that is installed comes from them.

What locks/ pins must satisfy pyproject.toml, versions.toml and nix/wheels.json, with
hashes and without the address of an index; and no program of this tree may let pip
install or download what no lock has.

Usage: python tools/check_locks.py (exits 1 and names what is wrong)
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lock
import locked
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packaging"))
from nix import wheels  # noqa: E402

# Calls of pip that may fetch something, and what makes each safe.
CALL = re.compile(
    r"""(?<!`)(?:["']-m["'],\s*["']pip["']|\bpip["']?\s+(?:install|download|wheel)\b|"""
    r"""session\.install\()"""
)
PROGRAMS = (
    *("noxfile.py", ".ci/*", ".github/workflows/*", "recipe/*.sh"),
    *("tools/*.py", "packaging/**/*.py", "tests/packaging/nixpkgs/*.sh"),
)
# What builds our own wheel fetches nothing; "check" changes nothing.
SAFE = ("locked.OPTIONS", "*OPTIONS", "--no-index", "--no-build-isolation", '"check"')
# The rest, by file: what it calls pip for.
EXCEPTIONS = {
    "packaging/nix/wheels.py": "--dry-run",  # Asks for hashes, installs nothing.
    "packaging/nix/flake.py": "--no-deps",  # Nix compares the hash of nix/wheels.json.
    "tests/packaging/nixpkgs/builder.sh": "dist/*.whl",  # PIP_NO_INDEX is set there.
    "packaging/macos/build.py": "came {version}: pip install",  # Words for a reader.
    # They install our wheel beside what users get, without a checkout.
    ".github/workflows/tests.yml": "&& pip install --no-deps ./*.whl",
    ".github/workflows/release.yml": 'pip install numpy "orchard-ops[cli]"',
}


class Tree:
    """The files of a source tree that say what is installed."""

    def __init__(self, root: Path) -> None:
        """Read the locks of a tree and what they are made from."""
        self.root, self.folder = root, root / locked.LOCKS.name
        self.project = self.table("pyproject.toml")
        self.matrix = self.table("versions.toml")
        self.pins = {p.stem: locked.read(p.stem, self.folder) for p in self.locks()}
        self.wheels = locked.wheels(self.folder)

    def table(self, name: str) -> dict[str, Any]:
        """Return a TOML file of the tree."""
        text = (self.root / name).read_text(encoding="utf-8")
        found: dict[str, Any] = tomllib.loads(text)
        return found

    def locks(self) -> list[Path]:
        """Return the files of the locks."""
        return sorted(self.folder.glob("*.txt"))


def unfit(needs: Iterable[str], found: list[locked.Pin], where: str) -> Iterator[str]:
    """Yield a sentence for each requirement that its pins do not satisfy."""
    for need in map(Requirement, needs):
        name = locked.canonical(need.name)
        fitting = [pin for pin in found if pin.name == name]
        if not fitting:
            yield f"{where} has no {need.name}"
        for pin in fitting:
            if not need.specifier.contains(pin.version, prereleases=True):
                yield f"{where}: {name} {pin.version} is not {need}"


def requirement_problems(tree: Tree) -> Iterator[str]:
    """Yield a sentence for each requirement that the locks do not satisfy."""
    needs = lock.environment(tree.project)
    environment = tree.pins.get(locked.ENVIRONMENT, [])
    yield from unfit(needs, environment, f"locks/{locked.ENVIRONMENT}.txt")
    for name, release in tree.matrix["transformers"].items():
        file, exact = f"transformers-{name}", f"transformers=={release['version']}"
        extra = tree.project["project"]["optional-dependencies"]["transformers"]
        found = tree.pins.get(file, [])
        yield from unfit([exact, *extra], found, f"locks/{file}.txt")
    for need in lock.needed_wheels(tree.matrix):
        found = [tree.wheels[need]] if need in tree.wheels else []
        yield from unfit([need], found, f"locks/{locked.WHEELS}.txt")


def form_problems(tree: Tree) -> Iterator[str]:
    """Yield a sentence for each pin without a hash, and for each address."""
    for path in tree.locks():
        for pin in tree.pins[path.stem]:
            if not pin.hashes:
                yield f"locks/{path.name}: {pin.name} {pin.version} has no hash"
        if "://" in path.read_text(encoding="utf-8"):
            yield f"locks/{path.name} names an address: any index must do"


def flake_problems(tree: Tree) -> Iterator[str]:
    """Yield a sentence for each wheel that the flake and the locks have apart."""
    known: dict[tuple[str, str], set[str]] = {}
    for pin in [*tree.pins.get(locked.ENVIRONMENT, []), *tree.wheels.values()]:
        known.setdefault((pin.name, pin.version), set()).update(pin.hashes)
    table = json.loads((tree.root / "nix" / "wheels.json").read_text(encoding="utf-8"))
    for wheel, found in wheels.flat(table).items():
        digest = base64.b64decode(found["hash"].removeprefix("sha256-")).hex()
        project = locked.canonical(wheel.project)
        if f"sha256:{digest}" not in known.get((project, wheel.version), set()):
            yield f"nix/wheels.json: {' '.join(wheel)}: no lock has its hash"


def calls(text: str, is_python: bool) -> Iterator[tuple[int, str]]:
    """Yield line and text of each call of pip that may fetch something."""
    found = list(CALL.finditer(text))
    for call, following in zip(found, [*found[1:], None]):
        end = following.start() if following else len(text)
        ends = r"\n\n" if is_python else r"(?<!\\)\n"  # Of what belongs to the call.
        said = re.split(ends, text[call.start() : end])[0]
        yield text.count("\n", 0, call.start()) + 1, said


def unlocked_calls(root: Path) -> Iterator[str]:
    """Yield a sentence for each call of pip that installs what no lock has."""
    for path in sorted({p for pattern in PROGRAMS for p in root.glob(pattern)}):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(root))
        if path.name == Path(__file__).name:  # The patterns above.
            continue
        for line, said in calls(text, path.suffix == ".py"):
            whole = text.splitlines()[line - 1].strip()
            known = [EXCEPTIONS[name]] if name in EXCEPTIONS else []
            if not any(words in f"{whole} {said}" for words in [*SAFE, *known]):
                yield f"{name}:{line}: {whole}: install from locks/"


def problems(root: Path) -> list[str]:
    """Return a sentence for each thing that is wrong with a source tree."""
    try:
        tree = Tree(root)
    except locked.NotLockedError as error:
        return [str(error)]
    return [
        *requirement_problems(tree),
        *form_problems(tree),
        *flake_problems(tree),
        *unlocked_calls(root),
    ]


def main() -> None:
    """Print what is wrong and exit accordingly."""
    found = problems(ROOT)
    sys.exit("\n".join([*found, "run nox -s lock"]) if found else 0)


if __name__ == "__main__":
    main()
