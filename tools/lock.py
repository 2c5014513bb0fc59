"""Write locks/: what builds and tests, pinned with hashes for every Python and system.

uv resolves the requirements of pyproject.toml and versions.toml, which stay wide for
users; tools/locked.py installs from what it writes.  No file names an index, so any
mirror serves.  tools/check_locks.py compares them with what is required.

Usage: python tools/lock.py [NAME...]  (of locks/; default: all)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import locked
import tomllib

ROOT = Path(__file__).resolve().parent.parent
MATRIX = tomllib.loads((ROOT / "versions.toml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAD = "# Written by tools/lock.py (nox -s lock).\n"
# The Python that every PyTorch has wheels for; the hashes are of all wheels.
COMMON_PYTHON = "3.11"
# The tools of these run on Python 3.11 alone, or newer.
NEW_PYTHON = ("lint",)
# The sessions call them, and users do not.
TOOLS = ("build", "cmake>=3.24", "ninja>=1.10", "pip", "uv")


def marked(requirements: list[str], marker: str) -> list[str]:
    """Return requirements for some environments only."""
    return [f"{r} and {marker}" if ";" in r else f"{r}; {marker}" for r in requirements]


def environment(project: dict[str, Any]) -> list[str]:
    """Return what the sessions may ask for, by pyproject.toml."""
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    new = f"python_version >= '{COMMON_PYTHON}'"
    found = [*project["build-system"]["requires"], *TOOLS, *locked.TORCH_NEEDS]
    for name, needs in extras.items():
        flat = [n for n in needs if locked.OURS.match(n) is None]
        if name != "transformers":
            found += marked(flat, new) if name in NEW_PYTHON else flat
    for needs in groups.values():
        found += marked(needs, new)
    return sorted(set(found))


def needed_wheels(matrix: dict[str, Any]) -> list[str]:
    """Return the requirements that several versions of a project answer."""
    torches = {entry["version"] for entry in matrix["torch"].values()}
    torches |= {*matrix["wheels"]["torch"], *matrix["macos"]["compile"]}
    headers = {*matrix["macos"]["compile"].values(), matrix["nix"]["mlx_metal"]}
    bounds = {entry["numpy"] for entry in matrix["torch"].values()} - {"numpy"}
    exact = [f"torch=={v}" for v in sorted(torches, key=order)]
    exact += [f"mlx-metal=={v}" for v in sorted(headers, key=order)]
    return [*sorted(bounds), *exact]


def order(version: str) -> list[int]:
    """Return what sorts versions."""
    return [int(part) for part in version.split(".")]


def resolve(requirements: list[str], python: str, *options: str) -> str:
    """Return uv's answer: pins, hashes and what asked for each."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"]
    command += ["--universal", "--generate-hashes", "--no-header", "--upgrade"]
    command += ["--annotation-style=split", f"--python-version={python}", *options, "-"]
    done = subprocess.run(
        command,
        input="\n".join(requirements),
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
    )
    if done.returncode:
        raise SystemExit(f"uv resolves no {requirements}:\n{done.stderr}")
    return done.stdout


def wheels() -> str:
    """Return the lock of what several versions are used of."""
    return "".join(
        f"\n# {name}\n{resolve([name], COMMON_PYTHON, '--no-deps')}"
        for name in needed_wheels(MATRIX)
    )


def transformers(release: dict[str, Any]) -> str:
    """Return the lock of one release of transformers."""
    return resolve([f"transformers=={release['version']}"], COMMON_PYTHON)


def main() -> None:
    """Write the locks that the command line names."""
    releases, oldest = MATRIX["transformers"], MATRIX["package"]["python"][0]
    makers: dict[str, Callable[[], str]] = {
        locked.ENVIRONMENT: partial(resolve, environment(PROJECT), oldest),
        locked.WHEELS: wheels,
        **{
            f"transformers-{name}": partial(transformers, release)
            for name, release in releases.items()
        },
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *makers], default=[])
    options = parser.parse_args()
    for name, make in makers.items():
        if name in (options.names or makers):
            path = locked.LOCKS / f"{name}.txt"
            path.write_text(HEAD + make(), encoding="utf-8")
            print(f"{path.name}: {len(locked.read(name))} pins", flush=True)


if __name__ == "__main__":
    main()
