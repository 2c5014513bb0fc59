"""The wheels that the flake builds on: pins their hashes, and verifies them.

nixpkgs carries one PyTorch at a time, so the flake takes each from its wheel.
``nix/wheels.json`` holds, by project, version, system and Python, what nixpkgs'
``fetchPypi`` wants to know of a wheel.  pip says which wheel an interpreter of
that system would install, and its hash; no wheel is downloaded.

Usage: python packaging nix.wheels [--check]  (--check exits 1 and names what differs)
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from project import ROOT, versions

TABLE = ROOT / "nix" / "wheels.json"
# Wheel platforms that a nixpkgs system can run, the newest first.
PLATFORMS = {
    "x86_64-linux": [
        f"manylinux{tag}_x86_64"
        for tag in ("_2_28", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")
    ],
    "aarch64-linux": [f"manylinux{tag}_aarch64" for tag in ("_2_28", "_2_17", "2014")],
    "aarch64-darwin": [f"macosx_{major}_0_arm64" for major in (14, 13, 12, 11)],
}
DARWIN = "aarch64-darwin"
ANY = "any"  # The wheel serves every Python.


class Wheel(NamedTuple):
    """One wheel that the flake needs."""

    project: str
    version: str
    system: str
    python: str


def needed(matrix: dict[str, Any]) -> Iterator[Wheel]:
    """Yield every wheel that the flake can ask for."""
    for entry in matrix["torch"].values():
        for python in matrix["nix"]["pythons"]:
            if python in entry["pythons"]:
                for system in PLATFORMS:
                    yield Wheel("torch", entry["version"], system, python)
    for system in PLATFORMS:
        yield Wheel("ziglang", matrix["package"]["ziglang"], system, ANY)
    yield Wheel("mlx_metal", matrix["nix"]["mlx_metal"], DARWIN, ANY)


def report(wheel: Wheel) -> dict[str, Any]:
    """Return pip's report on the wheel that it would install."""
    python = "3.11" if wheel.python == ANY else wheel.python
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
    command += ["--ignore-installed", "--no-deps", "--only-binary=:all:"]
    # An index that has no metadata beside its wheels: read it from inside them.
    command += ["--use-feature=fast-deps"]
    command += [f"--platform={name}" for name in PLATFORMS[wheel.system]]
    # Three equals signs: not a local build of the version (2.13.0+cpu).
    command += [f"--python-version={python}", "--target=unused", "--report=-"]
    command += [f"{wheel.project}==={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip finds no {wheel}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)["install"][0]
    return found


def ask_pip(wheel: Wheel) -> dict[str, Any]:
    """Return where pip would download a wheel from, and its hash."""
    found: dict[str, Any] = report(wheel)["download_info"]
    return found


def pin(wheel: Wheel) -> dict[str, str]:
    """Return what ``fetchPypi`` is told of a wheel."""
    told = ask_pip(wheel)
    name = told["url"].rpartition("/")[2].removesuffix(".whl")
    project, version, python, abi, platform = name.split("-")
    if (project, version) != (wheel.project, wheel.version):
        raise SystemExit(f"expected a wheel of {wheel}, pip names {name}")
    digest = bytes.fromhex(told["archive_info"]["hashes"]["sha256"])
    return {
        "python": python,
        "abi": abi,
        "platform": platform,
        "hash": f"sha256-{base64.b64encode(digest).decode()}",
    }


def flat(table: dict[str, Any], *path: str) -> dict[Wheel, dict[str, str]]:
    """Return the table of the file by wheel."""
    if len(path) == len(Wheel._fields):
        return {Wheel(*path): table}
    found: dict[Wheel, dict[str, str]] = {}
    for key, inner in table.items():
        found |= flat(inner, *path, key)
    return found


def nested(pins: dict[Wheel, dict[str, str]]) -> dict[str, Any]:
    """Return the table as the file holds it."""
    table: dict[str, Any] = {}
    for wheel, found in pins.items():
        inner = table
        for key in wheel:
            inner = inner.setdefault(key, {})
        inner.update(found)
    return table


def differences(
    stored: dict[Wheel, dict[str, str]], right: dict[Wheel, dict[str, str]]
) -> list[str]:
    """Return one sentence for each wheel that the file has wrong."""
    found = []
    for wheel in sorted(stored.keys() | right.keys()):
        expected, came = right.get(wheel), stored.get(wheel)
        if expected != came:
            found.append(f"{' '.join(wheel)}: expected {expected}, the file has {came}")
    return found


def main() -> None:
    """Write the file, or say what is wrong with it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--table", type=Path, default=TABLE, help="the file")
    options = parser.parse_args()
    wheels = list(needed(versions()))
    with ThreadPoolExecutor(4) as pool:
        right = dict(zip(wheels, pool.map(pin, wheels)))
    if not options.check:
        text = json.dumps(nested(right), indent=2, sort_keys=True)
        options.table.write_text(text + "\n")
        print(f"{options.table}: {len(right)} wheels")
        return
    wrong = differences(flat(json.loads(options.table.read_text())), right)
    if wrong:
        sys.exit("\n".join([*wrong, "run nox -s nix-wheels to pin anew"]))
    print(f"{options.table.name}: all {len(right)} hashes are those of their wheels")


if __name__ == "__main__":
    main()
