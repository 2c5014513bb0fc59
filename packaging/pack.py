"""Pack a wheel with the same bytes each time, and read it back."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import archives
import sbom
import source_date
import wheel_metadata
from project import ROOT, Failure, minor, table, versions

PROJECT = table("pyproject.toml")["project"]
VERSION: str = PROJECT["version"]
INFO = f"orchard_ops-{VERSION}.dist-info"
# The package's own files; stubs tell type checkers of the compiled libraries.
MODULES = ("orchard_ops/**/*.py", "orchard_ops/**/*.pyi", "orchard_ops/py.typed")


def sources(*patterns: str) -> list[Path]:
    """Return the source files that match, in a fixed order."""
    return sorted(path for p in patterns for path in ROOT.glob(p))


def metadata(minors: Collection[str], licences: Mapping[str, bytes]) -> str:
    """Return the METADATA of a wheel for some PyTorch minors."""
    licence = "MIT AND Apache-2.0" if len(licences) > 1 else "MIT"
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {PROJECT['name']}",
        f"Version: {VERSION}",
        f"Summary: {PROJECT['description']}",
        *(f"Author: {author['name']}" for author in PROJECT["authors"]),
        f"Keywords: {','.join(PROJECT['keywords'])}",
        f"License-Expression: {licence}",
        *(f"License-File: {name}" for name in licences),
        *(f"Project-URL: {n}, {at}" for n, at in PROJECT.get("urls", {}).items()),
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Requires-Dist: {need}" for need in wheel_metadata.requirements(minors)),
    ]
    for extra, needs in PROJECT["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need}; extra == "{extra}"' for need in needs]
    lines += [f"Classifier: {name}" for name in PROJECT["classifiers"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head = "\n".join(lines)
    return f"{head}\nDescription-Content-Type: text/markdown\n\n{readme}"


def wheel_files(
    tag: str,
    minors: Collection[str],
    built: Mapping[str, Path],
    also: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Return every file of a wheel but its RECORD."""
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in sources(*MODULES)
    }
    files |= {f"orchard_ops/{at}": path.read_bytes() for at, path in built.items()}
    licences = {"LICENSE": (ROOT / "LICENSE").read_bytes(), **also}
    scripts = "".join(f"{n} = {at}\n" for n, at in PROJECT["scripts"].items())
    files[f"{INFO}/METADATA"] = metadata(minors, licences).encode()
    files[f"{INFO}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    files |= {f"{INFO}/licenses/{name}": text for name, text in licences.items()}
    python, abi, platforms = tag.split("-")
    tags = "".join(f"Tag: {python}-{abi}-{name}\n" for name in platforms.split("."))
    files[f"{INFO}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: orchard-ops packaging\n"
        f"Root-Is-Purelib: false\n{tags}"
    ).encode()
    return files


def pack(
    tag: str,
    minors: Collection[str],
    built: Mapping[str, Path],
    into: Path,
    licences: Mapping[str, bytes] | None = None,
    headers: str | None = None,
    tools: Iterable[tuple[str, str]] = (),
) -> Path:
    """Write a wheel whose bytes depend on its files and the source's time alone.

    Args:
        tag: for which Python, ABI and platform it is.
        minors: the PyTorches whose libraries are in it.
        built: what the build made, by its place in the package.
        into: the folder to write to.
        licences: those of others whose code is in the libraries, by file name.
        headers: the version of mlx-metal that metal-cpp came in, if one did.
        tools: what compiled it, by name and version.
    """
    files = wheel_files(tag, minors, built, licences or {})
    when = source_date.epoch()
    known = {minor(version): version for version in versions()["wheels"]["torch"]}
    torches = [known.get(name, name) for name in minors]
    parts = sbom.compiled_in(files, torches, headers)
    files[f"{INFO}/{sbom.NAME}"] = sbom.document(
        PROJECT["name"], VERSION, when, parts, tools
    )
    out = into / f"orchard_ops-{VERSION}-{tag}.whl"
    libraries = (".so", ".dylib")
    archives.write_wheel(
        out, {n: (data, n.endswith(libraries)) for n, data in files.items()}, when
    )
    return out


def requirements_on_torch(metadata_text: str) -> list[str]:
    """Return the requirements of a METADATA that name torch."""
    lines = [x for x in metadata_text.splitlines() if x.startswith("Requires-Dist: ")]
    needs = [line.partition(": ")[2] for line in lines]
    return [need for need in needs if need.startswith("torch")]


def unrecorded(files: Mapping[str, bytes]) -> list[str]:
    """Return the files of which RECORD and the wheel itself say different things."""
    info = next((n for n in files if n.endswith(".dist-info/RECORD")), "RECORD")
    came = {*files.get(info, b"").decode().splitlines(keepends=True)}
    wanted = {archives.record(n, data) for n, data in files.items() if n != info}
    wanted.add(f"{info},,\n")
    return sorted({row.rsplit(",", 2)[0] for row in came ^ wanted})


def check_wheel(wheel: Path, minors: Collection[str]) -> None:
    """Read a finished wheel back: all that it says of itself must agree.

    Raises:
        Failure: the tag, the version, the requirement on PyTorch or a digest of
            RECORD is wrong.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    _, version, python, abi, platform = wheel.stem.split("-")
    texts = {name: files[f"{INFO}/{name}"].decode() for name in ("METADATA", "WHEEL")}
    needed, came = wheel_metadata.requirements(minors)[:1], texts["METADATA"]
    claims = {
        # A public index takes no local version, such as 0.1.0+torch2.4.
        "the version": (version == VERSION and "+" not in version, version),
        "the tag": (
            f"\nTag: {python}-{abi}-{platform.split('.')[0]}\n" in texts["WHEEL"],
            texts["WHEEL"],
        ),
        "the requirement": (
            requirements_on_torch(came) == needed,
            str(requirements_on_torch(came)),
        ),
        # It would be for one Python alone.
        "a Python extension": (
            abi != "none" or not any(".cpython-" in name for name in files),
            str(list(files)),
        ),
    }
    for name in unrecorded(files):
        claims[f"RECORD of {name}"] = False, "another digest or none"
    wrong = [f"{what}: {came}" for what, (holds, came) in claims.items() if not holds]
    if wrong:
        raise Failure(f"{wheel.name}: " + "; ".join(wrong))
