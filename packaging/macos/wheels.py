"""Build macOS arm64 wheels, on a Mac with Apple's clang or elsewhere with zig.

One wheel for each PyTorch and deployment target of versions.toml.  The wheels
hold no Python extension, so one serves every Python.  Objects are compiled for
the oldest target that a PyTorch allows; wheels for newer ones differ in what the
loader checks.  Each binary is then proved (packaging/macos/proof.py), packed with
fixed times and order, and listed in dist/macos/wheels.json.

Usage: python packaging macos.wheels [--torch 2.4.1 ...] [--target 14.0 ...] [--twice]

A PyTorch that cannot be downloaded is named at the end, with the reason and a
status of 1; the wheels of the others are there.

A packager who has PyTorch and metal-cpp unpacked names their folders (--tree,
--metal-cpp); nothing is downloaded then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import contents
import find_torch
from project import ROOT, Failure, default_python, macos_targets, minor, versions

from macos import downloads
from macos.build import Build, compiler_name
from macos.checks import metal_cpp_tables, number
from macos.pack import check_wheel, pack
from macos.proof import check, libraries, owners_for, write_stubs

TABLE = "{torch:>7} {python:>7} {target:>6} {bytes:>8} {symbols:>7} {messages:>9}  "
PYTHON = default_python()
MATRIX = versions()
HEADINGS = {
    **{name: name for name in ("torch", "python", "target", "bytes", "symbols")},
    "messages": "selectors",
}


def build_torch(
    version: str, targets: list[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Build the wheels of one PyTorch; return a row of the table for each."""
    folder, into = options.work.resolve(), options.out.resolve()
    tree = (options.tree or downloads.torch_tree(version, PYTHON)).resolve()
    metal_cpp = (options.metal_cpp or downloads.metal_cpp(PYTHON)).resolve()
    torch, tables = libraries(tree), metal_cpp_tables(metal_cpp)
    lowest = MATRIX["macos"]["torch"][version]
    build = Build(folder / f"torch-{version}", tree, metal_cpp, lowest)
    folders = [*map(str, (tree, metal_cpp, folder, ROOT)), str(Path.home())]
    rows = []
    for target in targets:
        owners = owners_for(target, torch)
        write_stubs(owners, build.stubs)
        binaries = build.link(target)
        # The one file that spells out all of metal-cpp's tables sends nothing.
        objects = [o for s, o in build.objects().items() if s.stem != "implementation"]
        count, sent = check(tables, folders, target, owners, binaries, objects)
        headers = None if options.metal_cpp else MATRIX["nix"]["mlx_metal"]
        wheel = pack(version, target, [*binaries, build.stamp], into, headers)
        check_wheel(wheel, version, target)
        held = contents.read_wheel(wheel)
        if found := contents.problems(held, minor(version), folders):
            raise Failure("\n".join(f"{wheel.name}: {sentence}" for sentence in found))
        rows.append(
            {
                "wheel": wheel.name,
                "torch": version,
                "python": "any 3",
                "target": target,
                "built_with": compiler_name(),
                "bytes": wheel.stat().st_size,
                "symbols": count,
                "messages": len(sent),
                "sent": sent,
                "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            }
        )
        print(f"{wheel.name}: {count} symbols, {len(sent)} messages", flush=True)
    return rows


def build_all(
    chosen: dict[str, list[str]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Build every wheel; return the rows of the table."""
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    return [row for name in chosen for row in build_torch(name, chosen[name], options)]


def differences(
    rows: list[dict[str, Any]], again: list[dict[str, Any]]
) -> Iterator[str]:
    """Return a sentence for each wheel that two builds gave other bytes."""
    for first, second in zip(rows, again):
        if first["sha256"] != second["sha256"]:
            yield (
                f"{first['wheel']}: built again, it has other bytes "
                f"({first['sha256']}, then {second['sha256']})"
            )


def check_reproducible(
    chosen: dict[str, list[str]],
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
) -> None:
    """Build every wheel again, from nothing and elsewhere: the bytes must agree.

    Raises:
        Failure: they do not; names the wheels.
    """
    with tempfile.TemporaryDirectory(prefix="orchard-twice-") as place:
        places = {"work": Path(place, "work"), "out": Path(place, "dist")}
        options = argparse.Namespace(**{**vars(options), **places})
        again = build_all(chosen, options)
    if found := list(differences(rows, again)):
        raise Failure("\n".join(found))
    print(f"\n{len(rows)} wheels, built again from nothing elsewhere: the same bytes")


def unknown(options: argparse.Namespace) -> list[str]:
    """Return what the command line names that the matrix does not have."""
    known = {*MATRIX["macos"]["torch"], *MATRIX["macos"]["deployment_targets"]}
    named = [*(options.torch or ()), *(options.target or ())]
    return [name for name in named if name not in known]


def admit(version: str) -> None:
    """Take a PyTorch that a packager has, if only its minor is in the table.

    One between two minors of the table gets the oldest macOS of the newer one; what
    the libraries need of that macOS is proved in any case.

    Raises:
        Failure: it is newer than all of them.
    """
    known = MATRIX["macos"]["torch"]
    newer = [name for name in known if number(name)[:2] >= number(version)[:2]]
    if not newer:
        raise Failure(
            f"PyTorch {version} is newer than all under [macos.torch] in "
            "versions.toml: add the oldest macOS that it runs on"
        )
    known.setdefault(version, known[min(newer, key=number)])


def wanted(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the deployment targets to build for each PyTorch."""
    chosen: dict[str, list[str]] = {}
    if options.tree:
        options.torch = [find_torch.torch_version(options.tree / "torch")]
        admit(options.torch[0])
    for version in MATRIX["macos"]["torch"]:
        known = macos_targets(MATRIX, version)
        targets = [t for t in known if t in (options.target or known)]
        if targets and version in (options.torch or [version]):
            chosen[version] = targets
    return chosen


def fetch(versions: Iterable[str]) -> dict[str, str]:
    """Fetch what comes from the network first; return what cannot be had, and why."""
    missing = {}
    for version in sorted(versions, key=number):
        try:
            downloads.torch_tree(version, PYTHON)
        except downloads.NotFetchedError as error:
            missing[version] = str(error)
    return missing


def report(missing: dict[str, str]) -> None:
    """Say which PyTorch has no wheels, after those of the others were made.

    Raises:
        Failure: there is one; names it, with the reason.
    """
    if missing:
        reasons = "\n\n".join(f"{name}: {why}" for name, why in missing.items())
        raise Failure(
            f"no wheels were made for PyTorch {', '.join(missing)}\n{reasons}"
        )


def main() -> None:
    """Build what the command line asks for, prove it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="*", help="PyTorch versions (default: all)")
    parser.add_argument("--target", nargs="*", help="deployment targets (default: all)")
    parser.add_argument("--tree", type=Path, help="folder of an unpacked PyTorch wheel")
    parser.add_argument("--metal-cpp", type=Path, help="folder with Metal/Metal.hpp")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "macos")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "macos")
    parser.add_argument(
        "--twice", action="store_true", help="build all again and compare the bytes"
    )
    options = parser.parse_args()
    if names := unknown(options):
        raise Failure(f"versions.toml lists no {', '.join(names)} under [macos]")
    chosen = wanted(options)
    if not chosen:
        raise Failure(f"nothing to build: {options.torch} for macOS {options.target}")
    missing = {} if options.tree else fetch(chosen)
    chosen = {name: chosen[name] for name in chosen if name not in missing}
    if not chosen:
        report(missing)
    rows = build_all(chosen, options)
    (options.out / "wheels.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + TABLE.format(**HEADINGS) + "sha256")
    for row in rows:
        print(TABLE.format(**row) + row["sha256"])
    if options.twice:
        check_reproducible(chosen, options, rows)
    report(missing)


if __name__ == "__main__":
    main()
