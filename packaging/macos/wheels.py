"""Build the macOS arm64 wheel, on a Mac with Apple's clang or elsewhere with zig.

One wheel carries a library of operators for each PyTorch under [wheels.torch] in
versions.toml, each for the oldest macOS that its PyTorch runs on, and the one library
of the device that they share.  It holds no Python extension, so it serves every
Python.  Each binary is proved (packaging/macos/proof.py) against the wheel of its
PyTorch; what was built is listed in dist/macos/wheels.json.

Usage: python packaging macos.wheels [--torch 2.4.1 ...] [--twice]

--torch leaves the other PyTorches out.  Nothing is built if one cannot be downloaded.

A packager who has PyTorch and metal-cpp unpacked names their folders (--tree,
--metal-cpp), and with --target the macOS to build for; nothing is downloaded then,
and the wheel is for that PyTorch alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import contents
import find_torch
from pack import pack
from project import (
    ROOT,
    Failure,
    default_python,
    default_torch,
    digest,
    macos_targets,
    minor,
    versions,
)

from macos import downloads, macho
from macos.build import IS_NATIVE, Build, compiler_name
from macos.checks import Owners, metal_cpp_tables, number
from macos.proof import check, libraries, owners_for, write_stubs

TABLE = "{library:>26} {macos:>6} {bytes:>8} {symbols:>7}  {sha256}"
PYTHON = default_python()
MATRIX = versions()


def planned(chosen: dict[str, str], options: argparse.Namespace) -> Build:
    """Return the build for PyTorch version → oldest macOS."""
    trees = {
        minor(version): (
            options.tree or downloads.torch_tree(version, PYTHON)
        ).resolve()
        for version in chosen
    }
    metal_cpp = (options.metal_cpp or downloads.metal_cpp(PYTHON)).resolve()
    targets = {minor(version): target for version, target in chosen.items()}
    name = f"torch-{'-'.join(chosen)}" if len(chosen) == 1 else "torch-many"
    folder = options.work.resolve() / name
    return Build(folder, trees, metal_cpp, targets, options.werror)


def prove(build: Build) -> list[dict[str, Any]]:
    """Prove every library of a build; return a row of the table for each.

    Raises:
        Failure: a symbol or a message has no owner on the macOS that it is for.
    """
    owners = owners_of(build)
    folders = [*map(str, (*build.trees.values(), build.metal_cpp, build.folder, ROOT))]
    folders.append(str(Path.home()))
    # The one file that spells out all of metal-cpp's tables sends nothing.
    sending = [o for s, o in build.objects() if s.stem != "implementation"]
    tables = metal_cpp_tables(build.metal_cpp)
    oldest = min(build.targets, key=lambda name: number(build.targets[name]))
    jobs = [(oldest, build.device, sending)]
    jobs += [(name, library, []) for name, library in build.libraries.items()]
    rows = []
    for name, library, objects in jobs:
        target = build.targets[name]
        owners[name].add_library(macho.read(build.device))
        count, sent = check(tables, folders, target, owners[name], [library], objects)
        rows.append(
            {
                "library": library.name,
                "macos": target,
                "built_with": compiler_name(),
                "bytes": library.stat().st_size,
                "symbols": count,
                "sent": sent,
                "sha256": digest(library),
            }
        )
    return rows


def owners_of(build: Build) -> dict[str, Owners]:
    """Return PyTorch minor → who exports what there, on its oldest macOS."""
    return {
        name: owners_for(build.targets[name], libraries(tree))
        for name, tree in build.trees.items()
    }


def built(chosen: dict[str, str], options: argparse.Namespace) -> Build:
    """Build the libraries of some PyTorches: its `libraries` are minor → file."""
    build = planned(chosen, options)
    stubs = Owners()
    for owners in owners_of(build).values():
        for name, symbols in owners.exports.items():
            stubs.exports.setdefault(name, set()).update(symbols)
    write_stubs(stubs, build.stubs)
    build.link()
    return build


def packed(build: Build, into: Path) -> Path:
    """Write the wheel, and read it back."""
    into.mkdir(parents=True, exist_ok=True)
    files = [build.device, *build.libraries.values(), build.stamp]
    licence = build.metal_cpp / "LICENSE.txt"
    wheel = pack(
        f"py3-none-macosx_{build.oldest.replace('.', '_')}_arm64",
        list(build.libraries),
        {path.name: path for path in files},
        into,
        # Inline functions of metal-cpp are compiled into the library of the device.
        {"metal-cpp-LICENSE.txt": licence.read_bytes()},
        downloads.headers_version(build.metal_cpp),
        [] if IS_NATIVE else [("zig", compiler_name().removeprefix("zig "))],
    )
    contents.check(wheel, list(build.libraries), [str(ROOT)])
    return wheel


def build_all(chosen: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Build, prove and pack; return what wheels.json says."""
    build = built(chosen, options)
    rows = prove(build)
    wheel = packed(build, options.out.resolve())
    return {
        "wheel": wheel.name,
        "bytes": wheel.stat().st_size,
        "sha256": digest(wheel),
        "libraries": rows,
    }


def differences(first: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Return a sentence for each file that two builds gave other bytes."""
    pairs = zip([first, *first["libraries"]], [again, *again["libraries"]])
    return [
        f"{one.get('wheel', one.get('library'))}: built again, it has other bytes "
        f"({one['sha256']}, then {two['sha256']})"
        for one, two in pairs
        if one["sha256"] != two["sha256"]
    ]


def check_reproducible(
    chosen: dict[str, str], options: argparse.Namespace, first: dict[str, Any]
) -> None:
    """Build the wheel again, from nothing and elsewhere: the bytes must agree.

    Raises:
        Failure: they do not; names the files.
    """
    with tempfile.TemporaryDirectory(prefix="orchard-twice-") as place:
        places = {"work": Path(place, "work"), "out": Path(place, "dist")}
        options = argparse.Namespace(**{**vars(options), **places})
        again = build_all(chosen, options)
    if found := differences(first, again):
        raise Failure("\n".join(found))
    print("\nbuilt again from nothing elsewhere: the same bytes")


def admit(version: str) -> None:
    """Take a PyTorch that a packager has, if only its minor is in the table.

    One between two minors of the table gets the oldest macOS of the newer one; what
    the libraries need of that macOS is proved in any case.

    Raises:
        Failure: it is newer than all of them.
    """
    known = MATRIX["wheels"]["torch"]
    newer = [name for name in known if number(name)[:2] >= number(version)[:2]]
    if not newer:
        raise Failure(
            f"PyTorch {version} is newer than all under [wheels.torch] in "
            "versions.toml: add the oldest macOS that it runs on"
        )
    known.setdefault(version, known[min(newer, key=number)])


def wanted(options: argparse.Namespace) -> dict[str, str]:
    """Return PyTorch version → oldest macOS of what is to be built.

    Raises:
        Failure: the command line names what versions.toml does not have.
    """
    known = MATRIX["wheels"]["torch"]
    if options.tree:
        version = find_torch.torch_version(options.tree / "torch")
        admit(version)
        targets = macos_targets(MATRIX, version)
        target = options.target or targets[0]
        if target not in targets:
            raise Failure(f"PyTorch {version} has no package for macOS {target}")
        return {version: target}
    if options.target:
        raise Failure("--target goes with --tree: a wheel of ours is for every macOS")
    named = [default_torch()] if options.sample else options.torch or known
    if names := [name for name in named if name not in known]:
        raise Failure(f"versions.toml lists no {', '.join(names)} under [wheels.torch]")
    return {name: known[name] for name in known if name in named}


def fetch(versions: Iterable[str]) -> None:
    """Fetch what comes from the network first.

    Raises:
        Failure: a PyTorch cannot be had; names each, with the reason.
    """
    missing = {}
    for version in versions:
        try:
            downloads.torch_tree(version, PYTHON)
        except downloads.NotFetchedError as error:
            missing[version] = str(error)
    if missing:
        reasons = "\n\n".join(f"{name}: {why}" for name, why in missing.items())
        raise Failure(f"no wheel was made without {', '.join(missing)}\n{reasons}")


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--torch", nargs="*", help="PyTorch versions (default: all)")
    add("--sample", action="store_true", help="the default PyTorch alone")
    add("--tree", type=Path, help="folder of an unpacked PyTorch wheel")
    add("--target", help="the macOS to build for, with --tree")
    add("--metal-cpp", type=Path, help="folder with Metal/Metal.hpp")
    add("--werror", action="store_true", help="warnings are errors")
    add("--work", type=Path, default=ROOT / "build" / "macos")
    add("--out", type=Path, default=ROOT / "dist" / "macos")
    add("--twice", action="store_true", help="build all again and compare the bytes")
    return parser.parse_args(arguments)


def main() -> None:
    """Build what the command line asks for, prove it and print the table."""
    options = parsed()
    chosen = wanted(options)
    if not options.tree:
        fetch(chosen)
    made = build_all(chosen, options)
    (options.out / "wheels.json").write_text(json.dumps(made, indent=1) + "\n")
    print(TABLE.format(**{key: key for key in made["libraries"][0]}))
    for row in made["libraries"]:
        print(TABLE.format(**row))
    print(f"\n{made['wheel']}: {made['bytes']} bytes, sha256 {made['sha256']}")
    if options.twice:
        check_reproducible(chosen, options, made)


if __name__ == "__main__":
    main()
