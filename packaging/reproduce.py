"""Build each kind of package twice and compare the bytes.

The two builds have folders of other names and depths, another time, umask, time zone,
language, order of hashes and number of processes, and files of other times and modes.
The second is made from the unpacked source distribution, which must know by itself
what time it is from.

Usage: python packaging reproduce [KIND...] [--torch 2.4.1] [--target 14.0]
       [--platform linux-64] [--wheel FILE]
  KIND: sdist, wheel, linux, macos, conda, nix (default: all); wheel is what pip
    builds, linux and macos are what is published
  --wheel: a wheel of this tree and Python that was built before, as the first one
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from compare import difference
from project import (
    ROOT,
    Failure,
    default_torch,
    digest,
    macos_targets,
    minor,
    versions,
)

KINDS = ("sdist", "wheel", "linux", "macos", "conda", "nix")
MATRIX = versions()
ROW = "{kind:<8} {same:<6} {digest}  {name}"


@dataclass(frozen=True)
class Place:
    """A folder with a source tree, and an environment to build it in."""

    source: Path
    environment: dict[str, str]
    umask: int
    made: dict[str, Path] = field(default_factory=dict)

    def run(self, *command: str | Path) -> None:
        """Run a command in the source tree; its output is the error if it fails."""
        inherited = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.source,
            env={**inherited, **self.environment},
            umask=self.umask,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            said = " ".join(map(str, command))
            raise Failure(f"{self.source}: {said}\n{done.stdout}{done.stderr}")

    def out(self, kind: str) -> Path:
        """Return the folder of what is built of a kind."""
        return self.source.parent / "dist" / kind


# What must not matter: nothing of it may come into a package.  ccache would give the
# second build what the first one compiled.
FIRST = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "1"}
FIRST |= {"CCACHE_DISABLE": "1"}
SECOND = {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2"}
SECOND |= {"CCACHE_DISABLE": "1", "CMAKE_BUILD_PARALLEL_LEVEL": "3"}
OLD = 1_000_000_000  # September 2001.


def copied(into: Path) -> Path:
    """Copy this tree as it is, with its commit if it has one."""
    if not (ROOT / ".git").exists():
        ignored = shutil.ignore_patterns("build", "dist", ".nox", "__pycache__")
        return Path(shutil.copytree(ROOT, into, ignore=ignored))
    git = ["git", "-C", str(ROOT)]
    clone = [*git, "clone", "--quiet", "--shared", "--no-checkout"]
    subprocess.run([*clone, str(ROOT), str(into)], check=True)
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, text=True, capture_output=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    return into


def sdist(place: Place) -> Path:
    """Build the source distribution of a place."""
    command = ("-m", "build", "--sdist", "--no-isolation", "--outdir")
    place.run(*command, place.out("sdist"))
    return next(place.out("sdist").glob("*.tar.gz"))


def unpacked(archive: Path, into: Path) -> Path:
    """Unpack a source distribution; its files get times and modes of their own."""
    with tarfile.open(archive) as opened:
        opened.extractall(into, filter="data")
    for path in into.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (OLD, OLD))
    return next(into.iterdir())


def wheel(place: Place) -> Path:
    """Build the wheel of a place for the PyTorch of this Python."""
    command = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    place.run(*command, "--wheel-dir", place.out("wheel"), ".")
    return next(place.out("wheel").glob("*.whl"))


def published(kind: str, place: Place, options: argparse.Namespace) -> list[Path]:
    """Build the wheel of a system that is published, with one PyTorch's library."""
    folders = ("--work", place.source.parent / kind, "--out", place.out(kind))
    choice = ("--torch", options.torch)
    place.run("packaging", f"{kind}.wheels", *choice, *folders)
    return sorted(place.out(kind).glob("*.whl"))


def conda(place: Place, options: argparse.Namespace) -> list[Path]:
    """Build the conda packages for a PyTorch, of both platforms or of one."""
    targets = macos_targets(MATRIX, options.torch)
    # One channel serves both: it is what they are built from, and takes long to fill.
    folders = ("--work", ROOT / "build" / "conda", "--out", place.out("conda"))
    choice = ("--torch", minor(options.torch), "--platform", *options.platform)
    choice += ("--target", options.target or targets[0], "--build-only")
    place.run("packaging", "conda.packages", *choice, *folders)
    return sorted(place.out("conda").glob("*/orchard-ops-*.conda"))


def compared(kind: str, first: list[Path], second: list[Path]) -> Iterator[str]:
    """Print a row for each package; yield a sentence for each that differs."""
    if [path.name for path in first] != [path.name for path in second]:
        yield f"{kind}: other packages were built: {first}, then {second}"
    for one, other in zip(first, second):
        found = difference(one, other)
        same = "same" if found is None else "DIFFER"
        for path in (one, other):
            row = {"digest": digest(path), "name": path.name}
            print(ROW.format(kind=kind, same=same, **row), flush=True)
        if found is not None:
            yield f"{kind}: {found}"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=KINDS)
    parser.add_argument(
        "--torch", default=default_torch(), help="of all but wheel and nix"
    )
    parser.add_argument("--target", help="macOS of conda's (default: the oldest)")
    both = ["linux-64", "osx-arm64"]
    parser.add_argument("--platform", nargs="+", choices=both, default=both)
    parser.add_argument("--wheel", type=Path, help="the first wheel, built before")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        raise Failure(f"no kinds of package: {sorted(unknown)}; there are {KINDS}")
    return options


def build_twice(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Build what is asked for; yield a sentence for each difference."""
    first = Place(copied(work / "a" / "src"), FIRST, 0o022)
    again = Place(copied(work / "another" / "deeper" / "tree"), SECOND, 0o077)
    archives = sdist(first), sdist(again)
    yield from compared("sdist", [archives[0]], [archives[1]])
    second = Place(unpacked(archives[1], work / "unpacked"), SECOND, 0o077)
    if "wheel" in options.kinds:
        before = options.wheel or wheel(first)
        yield from compared("wheel", [before], [wheel(second)])
    linux, macos = (partial(published, kind) for kind in ("linux", "macos"))
    for kind, build in (("linux", linux), ("macos", macos), ("conda", conda)):
        if kind in options.kinds:
            built = build(first, options)
            yield from compared(kind, built, build(second, options))
    if "nix" in options.kinds:
        first.run("packaging", "nix.flake", "--build", "--twice")
        print(f"{'nix':<8} same   (nix build --rebuild)", flush=True)


def main() -> None:
    """Do what the command line asks for; name what differs."""
    options = parsed()
    with tempfile.TemporaryDirectory(prefix="orchard-twice-") as work:
        found = list(build_twice(options, Path(work)))
    if found:
        raise Failure("\n".join(found))


if __name__ == "__main__":
    main()
