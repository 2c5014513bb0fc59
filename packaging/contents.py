"""Check what is in a finished package: a wheel or a conda package.

Every package must hold the Python modules, the libraries with every kernel inside,
the licence and the command; and neither tests nor paths of the machine that built
it.

Usage: python packaging contents FILE... (wheels and source distributions;
lists what each holds and exits 1 on what is wrong)
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import sbom
import wheel_metadata
from pack import MODULES, check_wheel, sources, unrecorded
from project import ROOT, Failure, table

SITE = re.compile(r"^(lib/python3\.\d+/)?site-packages/")
STRAY = re.compile(
    r"(^|/)(tests?|csrc|kernels|build)/|(^|/)test_|\.(o|a|metal|orig|bak)$"
)
# What conda makes of entry points, modules and the recipe's tests.
GENERATED = re.compile(
    r"^bin/orchard-ops$|__pycache__/.*\.pyc$|^etc/conda/test-files/|^info/"
)
CHANNELS = "info/about.json"  # Conda's record of the channels it built from.
SIMULATOR = "_sim.cpython-"
OPERATORS = re.compile(r"(orchard_ops/(?:abi[01]/)?)_C\.torch(\d+\.\d+)\.so$")
README = ROOT / "README.md"
METADATA = re.compile(r"^orchard_ops-[^/]+\.dist-info/(.+)$")


def read_wheel(path: Path) -> dict[str, bytes]:
    """Return path → content of a wheel's files."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_conda(path: Path) -> dict[str, bytes]:
    """Return path → content of a conda package's files, its metadata too."""
    from rattler.package_streaming import extract

    with tempfile.TemporaryDirectory() as folder:
        extract(path, Path(folder))
        paths = json.loads(Path(folder, "info", "paths.json").read_text())["paths"]
        holders = {p["_path"]: p.get("prefix_placeholder", "") for p in paths}
        found = {}
        for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            name, data = str(path.relative_to(folder)), path.read_bytes()
            # The installer puts its own prefix where the build's stands.
            for holder in filter(None, {holders.get(name), *in_paths(name, holders)}):
                data = data.replace(holder.encode(), b"<prefix>")
            found[SITE.sub("", name)] = data
        return found


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return path → content of a folder's files, modules by their import's path."""
    return {
        SITE.sub("", str(path.relative_to(folder))): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def listing(files: dict[str, bytes]) -> str:
    """Return a line of size and path for each file."""
    return "".join(f"{len(data):>9} {name}\n" for name, data in sorted(files.items()))


def in_paths(name: str, holders: dict[str, str]) -> set[str]:
    """Return the placeholders that conda's own list of files names."""
    return set(holders.values()) if name == "info/paths.json" else set()


def expected_modules() -> set[str]:
    """Return the package's files that every package must hold."""
    return {str(path.relative_to(ROOT)) for path in sources(*MODULES)} | {
        "orchard_ops/_build_info.py"
    }


def kernels() -> dict[str, bytes]:
    """Return path → text of every kernel file."""
    paths = [p for p in ROOT.glob("kernels/**/*") if p.suffix in (".metal", ".h")]
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}


def carried(files: Iterable[str]) -> dict[str, str]:
    """Return PyTorch minor → folder, of the operators that a package holds."""
    found = filter(None, map(OPERATORS.match, files))
    return {match[2]: match[1] for match in found}


def libraries(files: Collection[str], minors: Iterable[str]) -> set[str]:
    """Return the libraries that a package for some PyTorch minors must hold."""
    places, is_macos = carried(files), "orchard_ops/liborchard_device.dylib" in files
    wanted = set()
    for minor in minors:
        place = places.get(minor, "orchard_ops/")
        wanted |= {f"{place}_C.torch{minor}.so"}
        wanted |= {f"{place}liborchard_device.{'dylib' if is_macos else 'so'}"}
        if is_macos:  # It has no simulator.
            continue
        wanted |= {f"{place}_metalsim.torch{minor}.so"}
        simulator = {n for n in files if n.startswith(place + SIMULATOR)}
        wanted |= simulator or {f"{place}{SIMULATOR}….so"}
    return wanted


def problems(
    files: dict[str, bytes], minors: Collection[str], folders: Iterable[str]
) -> list[str]:
    """Return a sentence for each thing that is missing or too much."""
    wanted = expected_modules() | libraries(files, minors)
    found = [f"{name} is missing" for name in sorted(wanted - files.keys())]
    found += [
        f"kernel {name} is not in {device}"
        for device in sorted(wanted)
        if "/liborchard_device." in device
        for name, text in kernels().items()
        if text not in files.get(device, b"")
    ]
    for name in files:
        is_ours = name in wanted or METADATA.match(name) or GENERATED.search(name)
        if not is_ours:
            found.append(f"{name} does not belong here")
        elif STRAY.search(name) and not GENERATED.search(name):
            found.append(f"{name} is a test or a left-over")
    found += [
        f"{name} holds the path {folder}"
        for name, data in files.items()
        for folder in folders
        if folder.encode() in data and name != CHANNELS
    ]
    return found + metadata_problems(files, minors)


def metadata_problems(files: dict[str, bytes], minors: Collection[str]) -> list[str]:
    """Return a sentence for each thing that the metadata lacks."""
    needed = wheel_metadata.requirements(minors)[0] if minors else "torch"
    info = {m[1]: files[m[0]].decode() for m in map(METADATA.match, files) if m}
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    lines = info.get("METADATA", "").splitlines()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")
    claims = {
        f"METADATA: no extra {name}": f"Provides-Extra: {name}" in lines
        for name in re.findall(r"^(\w+) = \[", extras[0], re.M)
    } | {
        "METADATA: no licence MIT": any(
            re.match("License.*: MIT( AND Apache-2.0)?$", n) for n in lines
        ),
        f"METADATA: does not require {needed}": f"Requires-Dist: {needed}" in lines,
        "METADATA: the README is not its description": (
            README.read_text(encoding="utf-8") in info.get("METADATA", "")
        ),
        "licenses/metal-cpp-LICENSE.txt is missing": (
            "orchard_ops/liborchard_device.dylib" not in files
            or "Apache License" in info.get("licenses/metal-cpp-LICENSE.txt", "")
        ),
        "licenses/LICENSE is not ours": info.get("licenses/LICENSE") == licence,
        "entry_points.txt: no command orchard-ops": (
            re.search(
                "^orchard-ops ?= ?orchard_ops.cli:app$",
                info.get("entry_points.txt", ""),
                re.M,
            )
            is not None
        ),
    }
    found = [sentence for sentence, holds in claims.items() if not holds]
    return found + version_problems(info, table("pyproject.toml")["project"]["version"])


def version_problems(info: dict[str, str], version: str) -> list[str]:
    """Return a sentence for each place of the metadata with another version."""
    says = re.search(r"^Version: (.+)$", info.get("METADATA", ""), re.M)
    stated = says[1] if says else "none"
    inner = json.loads(info.get(sbom.NAME, "{}")).get("metadata", {})
    listed = inner.get("component", {}).get("version", "none")
    found = []
    if stated.partition("+")[0] != version:
        found.append(f"METADATA: version {stated}, pyproject.toml says {version}")
    if listed != stated:
        found.append(f"{sbom.NAME}: version {listed}, METADATA says {stated}")
    return found


def record_problems(files: dict[str, bytes]) -> list[str]:
    """Return a sentence for each file of a wheel that is not what RECORD says."""
    return [f"{name}: RECORD has another digest or none" for name in unrecorded(files)]


def check(wheel: Path, minors: Collection[str], folders: Iterable[str]) -> None:
    """Read a finished wheel back: what it says of itself, and what is in it.

    Raises:
        Failure: names each thing that is wrong.
    """
    check_wheel(wheel, minors)
    if found := problems(read_wheel(wheel), minors, folders):
        raise Failure("\n".join(f"{wheel.name}: {sentence}" for sentence in found))


def read_sdist(path: Path) -> dict[str, bytes]:
    """Return path → content of a source distribution's files."""
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        names = [member.name.partition("/")[2] for member in members]
        streams = [archive.extractfile(member) for member in members]
        return {n: s.read() for n, s in zip(names, streams) if s is not None}


def sdist_problems(files: dict[str, bytes], folders: Iterable[str]) -> list[str]:
    """Return a sentence for each thing that a build from source would miss."""
    wanted = {*expected_modules(), *kernels(), *sdist_files()}
    wanted.remove("orchard_ops/_build_info.py")  # The build writes it.
    found = [f"{name} is missing" for name in sorted(wanted - files.keys())]
    found += [
        f"{name} is built or private"
        for name in files
        if re.search(r"^(build|dist|\.nox|shared)/|\.(so|dylib|pyc)$", name)
    ]
    return found + [
        f"{name} holds the path {folder}"
        for name, data in files.items()
        for folder in folders
        if folder.encode() in data
    ]


def sdist_files() -> set[str]:
    """Return what a build, its tests and its packagers need besides the package."""
    patterns = (
        *("cmake/*", "csrc/**/*.[ch]*", "tests/**/*.*", "recipe/*", "versions.toml"),
        *("packaging/**/*.*", "tools/*.py", "locks/*"),
        *(".ci/*", ".github/*/*", "docs/**/*", "nix/*", "flake.*"),  # What tests read.
        *("examples/*.py", "mkdocs.yml"),
    )
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return {
        str(path.relative_to(ROOT))
        for path in paths
        if path.is_file() and path.suffix != ".pyc"
    }


def main() -> None:
    """List and check the packages that the command line names."""
    folders = [str(ROOT), str(Path.home())]
    found: list[str] = []
    for path in map(Path, sys.argv[1:]):
        is_wheel = path.suffix == ".whl"
        files = read_wheel(path) if is_wheel else read_sdist(path)
        print(f"{path.name}: {len(files)} files, {path.stat().st_size} bytes")
        print(listing(files), end="")
        if is_wheel:
            wrong = problems(files, list(carried(files)), folders)
            if not carried(files):
                wrong.append("no _C.torch….so: it holds no operators")
            wrong += record_problems(files)
        else:
            wrong = sdist_problems(files, folders)
        found += [f"{path.name}: {sentence}" for sentence in wrong]
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main()
