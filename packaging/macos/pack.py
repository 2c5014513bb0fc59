"""Pack a macOS wheel whose bytes depend on its files alone, and read it back."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import archives
import sbom
import source_date
import wheel_metadata
from project import ROOT, Failure, minor, table, versions

PROJECT = table("pyproject.toml")["project"]


def sources(*patterns: str) -> list[Path]:
    """Return the source files that match, in a fixed order."""
    return sorted(path for p in patterns for path in ROOT.glob(p))


def metadata(version: str) -> str:
    """Return the wheel's METADATA."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PROJECT['name']}",
        f"Version: {wheel_version(version)}",
        f"Summary: {PROJECT['description']}",
        f"License: {PROJECT['license']}",
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Requires-Dist: {need}" for need in wheel_metadata.requirements(version)),
    ]
    for extra, needs in PROJECT["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need}; extra == "{extra}"' for need in needs]
    lines += [f"Classifier: {name}" for name in PROJECT["classifiers"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head = "\n".join(lines)
    return f"{head}\nDescription-Content-Type: text/markdown\n\n{readme}"


def wheel_version(version: str) -> str:
    """Return our version with the PyTorch that the wheel is for.

    Where a channel tells that (conda's), ORCHARD_PLAIN_VERSION leaves it out.
    """
    if os.environ.get("ORCHARD_PLAIN_VERSION"):
        return str(PROJECT["version"])
    major, minor, _ = version.split(".")
    return f"{PROJECT['version']}+torch{major}.{minor}"


def tag(target: str) -> str:
    """Return the wheel's tag: any Python 3, one macOS."""
    return f"py3-none-macosx_{target.replace('.', '_')}_arm64"


def wheel_files(version: str, target: str, built: list[Path]) -> dict[str, bytes]:
    """Return every file of a wheel but its RECORD."""
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in sources("orchard_ops/**/*.py", "orchard_ops/py.typed")
    }
    files |= {f"orchard_ops/{path.name}": path.read_bytes() for path in built}
    info = f"orchard_ops-{wheel_version(version)}.dist-info"
    scripts = "".join(f"{n} = {at}\n" for n, at in PROJECT["scripts"].items())
    files[f"{info}/METADATA"] = metadata(version).encode()
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: orchard-ops macos.wheels\n"
        f"Root-Is-Purelib: false\nTag: {tag(target)}\n"
    ).encode()
    return files


def pack(
    version: str, target: str, built: list[Path], into: Path, headers: str | None = None
) -> Path:
    """Write a wheel whose bytes depend on its files and their commit's time alone.

    ``headers`` is the version of mlx-metal that metal-cpp came from, if it is known.
    """
    files, when = wheel_files(version, target, built), source_date.epoch()
    info = next(name for name in files if name.endswith("/WHEEL")).rpartition("/")[0]
    parts = [sbom.pytorch(version), sbom.metal_cpp(headers)]
    zig = ("zig", versions()["package"]["ziglang"])
    files[f"{info}/{sbom.NAME}"] = sbom.document(
        *(PROJECT["name"], wheel_version(version), when, parts),
        [] if sys.platform == "darwin" else [zig],  # There Apple's clang compiles.
    )
    out = into / f"orchard_ops-{wheel_version(version)}-{tag(target)}.whl"
    libraries = (".so", ".dylib")
    archives.write_wheel(
        out, {n: (data, n.endswith(libraries)) for n, data in files.items()}, when
    )
    return out


def requirement_on_torch(metadata_text: str) -> str:
    """Return the Requires-Dist line of a METADATA that names torch."""
    lines = [x for x in metadata_text.splitlines() if x.startswith("Requires-Dist: ")]
    torch = [line.partition(": ")[2] for line in lines if "torch" in line]
    return torch[0] if len(torch) == 1 else f"{len(torch)} requirements on torch"


def stamp(build_info: str) -> str:
    """Return the PyTorch version that a _build_info.py states."""
    names: dict[str, str] = {}
    exec(build_info, names)
    return names.get("TORCH_VERSION", "")


def check_wheel(wheel: Path, version: str, target: str) -> None:
    """Read a finished wheel back: all that it says of itself must agree.

    Raises:
        Failure: the tag, the requirement on PyTorch, the stamp that the loader
            compares with the running PyTorch, or a digest of RECORD is wrong.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    info = f"orchard_ops-{wheel_version(version)}.dist-info"
    texts = {name: data.decode() for name, data in files.items() if info in name}
    needed = f"torch=={minor(version)}.*"
    claims = {
        "the file's name": (wheel.name.endswith(f"-{tag(target)}.whl"), wheel.name),
        "the tag": (
            f"\nTag: {tag(target)}\n" in texts[f"{info}/WHEEL"],
            texts[f"{info}/WHEEL"],
        ),
        "the requirement": (
            requirement_on_torch(texts[f"{info}/METADATA"]) == needed,
            requirement_on_torch(texts[f"{info}/METADATA"]),
        ),
        "the loader's stamp": (
            stamp(files["orchard_ops/_build_info.py"].decode()) == version,
            stamp(files["orchard_ops/_build_info.py"].decode()),
        ),
        # It would be for one Python alone.
        "a Python extension": (
            not any(".cpython-" in name for name in files),
            str(list(files)),
        ),
    }
    for line in texts[f"{info}/RECORD"].splitlines()[:-1]:
        name, _, size = line.rsplit(",", 2)
        claims[f"RECORD of {name}"] = (
            archives.record(name, files[name]) == f"{line}\n",
            size,
        )
    wrong = [f"{what}: {came}" for what, (holds, came) in claims.items() if not holds]
    if wrong:
        raise Failure(f"{wheel.name} is not for PyTorch {version}: " + "; ".join(wrong))
