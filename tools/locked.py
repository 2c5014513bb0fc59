"""Install what builds and tests, in the versions and with the hashes of locks/.

The locks are requirement files with a hash for each file that may be installed, which
``nox -s lock`` writes (tools/lock.py).  One covers every Python, and names what asked
for a package, so a few of them can be installed with all that they need, and with the
extras of it that any session asks for.
This runs before anything is installed, so it imports only Python's own modules.

Usage: python tools/locked.py [--python VENV/bin/python] [--lock NAME] REQUIREMENT...
       python tools/locked.py --list ...  (prints the requirement file, installs none)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).resolve().parent.parent / "locks"
# The environment of every session.  The others: transformers' releases.
ENVIRONMENT = "environment"
# Several versions of a project, each under the requirement that it answers.
WHEELS = "wheels"
# pip refuses what has no hash here or another, and adds nothing.
OPTIONS = ("--require-hashes", "--no-deps", "--disable-pip-version-check")
# What PyTorch imports; nix/torch.nix names the same.
TORCH_NEEDS = (
    *("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy"),
    "typing-extensions",
)
PIN = re.compile(r"([\w.-]+)==([\w.+!-]+)(?: ; ([^\\]+?))?(?: \\)?$")
OURS = re.compile(r"orchard-ops\[(.+)\]$")


class NotLockedError(SystemExit):
    """What was asked for is in no lock; the message says what to do."""


@dataclass(frozen=True)
class Pin:
    """One version of a project, for the environments that its marker names."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    parents: frozenset[str]  # What asked for it.

    def text(self) -> str:
        """Return the lines of a requirement file."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash={each}" for each in self.hashes)
        return f"{self.name}=={self.version}{marker}{hashes}\n"


def canonical(name: str) -> str:
    """Return a project's name as the locks spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project(requirement: str) -> str:
    """Return the project that a requirement names."""
    found = re.match(r"[\w.-]+", requirement)
    if found is None:
        raise NotLockedError(f"{requirement!r} is no requirement")
    return canonical(found[0])


def pins(text: str) -> Iterator[Pin]:
    """Yield the pins of a lock."""
    for block in re.split(r"\n(?=[^\s#])", f"\n{text}")[1:]:
        lines = block.splitlines()
        head = PIN.match(lines[0])
        if head is None:
            raise NotLockedError(f"a lock holds {lines[0]!r}: nox -s lock")
        found = re.findall(r"--hash=(sha256:[0-9a-f]{64})(?= \\$|$)", block, re.M)
        comments = [x.strip(" #") for x in lines[1:] if x.lstrip().startswith("#")]
        parents = {
            canonical(x.removeprefix("via ").partition("[")[0]) for x in comments
        }
        yield Pin(head[1], head[2], head[3] or "", tuple(found), frozenset(parents))


def read(lock: str, folder: Path = LOCKS) -> list[Pin]:
    """Return the pins of the lock of a name."""
    return list(pins((folder / f"{lock}.txt").read_text(encoding="utf-8")))


def wheels(folder: Path = LOCKS) -> dict[str, Pin]:
    """Return requirement → pin of the wheels that several versions are used of."""
    text = (folder / f"{WHEELS}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^# (\S+)\n", text, flags=re.M)[1:]
    return {name: next(pins(block)) for name, block in zip(parts[::2], parts[1::2])}


def flat(requirements: Iterable[str], extras: Mapping[str, list[str]]) -> list[str]:
    """Return requirements, with those of our own extras in their place."""
    found: list[str] = []
    for each in requirements:
        inner = OURS.match(each)
        names = inner[1].split(",") if inner else []
        found += [x for name in names for x in flat(extras[name], extras)]
        found += [] if inner else [each]
    return found


def chosen(
    requirements: Iterable[str], lock: str = ENVIRONMENT, folder: Path = LOCKS
) -> list[Pin]:
    """Return the pins of requirements and of all that they need.

    Raises:
        NotLockedError: the lock has none of that project.
    """
    wanted, several, instead = set(), wheels(folder), {}
    for each in requirements:
        if each in several:
            instead[several[each].name] = several[each]
        wanted.add(project(each))
    known = read(lock, folder)
    names = {pin.name for pin in known} | instead.keys()
    if missing := sorted(wanted - names):
        raise NotLockedError(
            f"locks/{lock}.txt has no {', '.join(missing)}: name it in pyproject.toml "
            "or versions.toml and run nox -s lock"
        )
    found: set[str] = set()
    while wanted - found:
        found |= wanted
        wanted = {pin.name for pin in known if pin.parents & found}
    kept = [pin for pin in known if pin.name in found and pin.name not in instead]
    return sorted([*kept, *instead.values()], key=lambda pin: (pin.name, pin.version))


def wheel(requirement: str, folder: Path = LOCKS) -> Pin:
    """Return the pin of a wheel that several versions are used of.

    Raises:
        NotLockedError: there is none for this requirement.
    """
    known = wheels(folder)
    if requirement not in known:
        raise NotLockedError(
            f"locks/{WHEELS}.txt has no {requirement}: name it in versions.toml and "
            "run nox -s lock"
        )
    return known[requirement]


@contextmanager
def requirement_file(found: Iterable[Pin]) -> Iterator[str]:
    """Yield the path of a requirement file of pins."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(pin.text() for pin in found))
        file.flush()
        yield file.name


def pip(python: str, command: str, found: Iterable[Pin], *options: str | Path) -> None:
    """Let the pip of an interpreter fetch pins: install or download them."""
    with requirement_file(found) as path:
        start = [python, "-m", "pip", command, *OPTIONS, "--quiet", *options]
        subprocess.run([*start, "--requirement", path], check=True)


def main() -> None:
    """Install what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="install into this")
    parser.add_argument("--lock", default=ENVIRONMENT, help="a file of locks/")
    parser.add_argument("--list", action="store_true", help="install nothing")
    parser.add_argument("requirements", nargs="+")
    options = parser.parse_args()
    found = chosen(options.requirements, options.lock)
    if options.list:
        print("".join(pin.text() for pin in found), end="")
    else:
        pip(options.python, "install", found)


if __name__ == "__main__":
    main()
