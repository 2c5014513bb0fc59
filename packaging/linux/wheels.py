"""Build the Linux wheel for the Python that runs this, or for others.

One wheel carries the libraries for each PyTorch under [wheels.torch] in versions.toml:
operators and simulated device by PyTorch, the simulator itself by std::string, since
PyPI's PyTorch changed its own with 2.7.  The simulator's Python module ties the wheel
to one Python; another Python's wheel, made in the same work folder, compiles that
module alone.  Such a Python needs its headers and nothing installed.

The tag is the oldest manylinux that the libraries' symbols allow, by auditwheel's own
table: PyTorch's libraries are the only others that they need.

Usage: python packaging linux.wheels [--torch 2.4.1 ...] [--python python3.12 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contents
import cpu_torch
import find_torch
from macos.downloads import NotFetchedError, unpacked
from pack import pack
from project import (
    ROOT,
    Failure,
    default_python,
    digest,
    minor,
    python_tag,
    versions,
)

TREES_PYTHON = default_python()  # Any that every PyTorch has a wheel for.
FILES = re.compile(r"torch/(include/|version\.py$|lib/lib(torch_cpu|c10)\.so$)")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
ARCH = "x86_64"
# What the one who installs has: PyTorch's libraries, ours, and the loader itself.
EXTERNAL = re.compile(r"lib(torch_cpu|c10|orchard_device)\.so$|ld-linux")
VERSIONED = re.compile(r"\b(GLIBC|GLIBCXX|CXXABI|GCC|ZLIB|LIBATOMIC)_([\w.]+)")
MATRIX = versions()
KNOWN: dict[str, str] = MATRIX["wheels"]["torch"]
# With what CMake has kept of another Python it would look for that one's headers.
FORGET = "-U*Python_*"
QUERY = """
import json, sys, sysconfig
suffix = sysconfig.get_config_var("EXT_SUFFIX")
print(json.dumps([sys.executable, "%d.%d" % sys.version_info[:2], suffix]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that a wheel is for."""

    executable: str
    version: str  # "3.12"
    suffix: str  # Of its extension modules.

    @property
    def tag(self) -> str:
        """Return its tag in a wheel's name, which is that of its ABI too."""
        return python_tag(self.version)


def interpreter(command: str) -> Interpreter:
    """Ask a Python, by its path or its name on the path, what it is.

    Raises:
        Failure: it does not run, or is none that the package is for.
    """
    supported = ", ".join(MATRIX["package"]["python"])
    try:
        done = subprocess.run([command, "-c", QUERY], text=True, capture_output=True)
    except OSError as error:
        raise Failure(f"{command}: expected a Python ({supported}), {error}") from error
    if done.returncode != 0:
        raise Failure(f"{command}: expected a Python ({supported})\n{done.stderr}")
    found = Interpreter(*json.loads(done.stdout))
    if found.version not in MATRIX["package"]["python"]:
        raise Failure(
            f"{command}: expected a Python of {supported}, came {found.version}"
        )
    return found


def tree(version: str) -> Path:
    """Return the folder that holds ``torch/`` of a Linux wheel, downloaded once."""
    digits = TREES_PYTHON.replace(".", "")
    whole = cpu_torch.cache_root() / f"{version}-cpython-{digits}-linux-{ARCH}"
    if (whole / "torch").is_dir():  # A test session has unpacked it.
        return whole
    return unpacked(f"torch=={version}", TREES_PYTHON, FILES, PLATFORMS)


def by_strings(chosen: Iterable[str]) -> dict[int, dict[str, Path]]:
    """Return _GLIBCXX_USE_CXX11_ABI → PyTorch minor → tree."""
    found: dict[int, dict[str, Path]] = {}
    for version in chosen:
        try:
            folder = tree(version).resolve()
        except NotFetchedError as error:
            text = f"no wheel was made without PyTorch {version}\n{error}"
            raise Failure(text) from error
        abi = int(find_torch.has_cxx11_abi(folder / "torch"))
        found.setdefault(abi, {})[minor(version)] = folder
    return found


def build(folder: Path, trees: dict[str, Path], python: Interpreter) -> Path:
    """Build for PyTorches of one std::string; return the folder of the libraries."""
    pybind11 = cpu_torch.output(sys.executable, "-m", "pybind11", "--cmakedir").strip()
    options = {
        "Python_EXECUTABLE": python.executable,
        "pybind11_DIR": pybind11,  # That Python may have none.
        "ORCHARD_TORCH_WHEEL": ";".join(map(str, trees.values())),
        "ORCHARD_PRECOMPILE": "ON",
        "CMAKE_UNITY_BUILD": "ON",
        "ORCHARD_WERROR": "ON",
        "ORCHARD_RPATH": "$ORIGIN/../../torch/lib",
        "ORCHARD_LINK_OPTIONS": "-s",
        "CMAKE_MODULE_LINKER_FLAGS": "-s",
    }
    defined = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", FORGET, *defined],
        ["cmake", "--build", str(folder), "--", "-k", "0"],
    ):
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return folder / "orchard_ops"


def gathered(
    folder: Path, minors: Iterable[str], abi: int, suffix: str
) -> dict[str, Path]:
    """Return place in the package → file, for what was built for one std::string."""
    names = ["liborchard_device.so", f"_sim{suffix}"]
    for name in minors:
        names += [f"_C.torch{name}.so", f"_metalsim.torch{name}.so"]
    return {f"abi{abi}/{name}": folder / name for name in names}


def needs(libraries: Iterable[Path]) -> tuple[dict[str, set[str]], set[str]]:
    """Return the versions of symbols, by owner, and the sonames that ELF files need."""
    symbols: dict[str, set[str]] = {}
    sonames: set[str] = set()
    for path in libraries:
        dynamic = cpu_torch.output("readelf", "-dVW", path)
        sonames |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
        wanted = dynamic.partition(".gnu.version_r'")[2]
        for owner, version in VERSIONED.findall(wanted):
            symbols.setdefault(owner, set()).add(version)
    return symbols, sonames


def policies() -> list[dict[str, Any]]:
    """Return auditwheel's manylinux policies, the most portable first."""
    import auditwheel

    path = Path(auditwheel.__file__).parent / "policy" / "manylinux-policy.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return sorted(found, key=lambda policy: -int(policy["priority"]))


def platform_tag(libraries: Iterable[Path]) -> str:
    """Return the tag of the most portable platform that libraries run on.

    Raises:
        Failure: none; names what stands against the newest.
    """
    symbols, sonames = needs(libraries)
    strange = ""
    for policy in policies():
        allowed = policy["symbol_versions"].get(ARCH)
        if not allowed:
            continue
        others = [
            s for s in sonames - {*policy["lib_whitelist"]} if not EXTERNAL.match(s)
        ]
        newer = [
            f"{owner}_{version}"
            for owner, found in symbols.items()
            for version in found - {*allowed.get(owner, ())}
        ]
        if not others and not newer:
            return f"{policy['name']}_{ARCH}"
        strange = ", ".join(sorted([*others, *newer]))
    raise Failure(f"no manylinux has {strange}")


def make(
    trees: dict[int, dict[str, Path]], python: Interpreter, work: Path, into: Path
) -> dict[str, Any]:
    """Build and pack the wheel of a Python; return what wheels.json says of it."""
    files: dict[str, Path] = {}
    minors: list[str] = []
    for abi, some in sorted(trees.items()):
        folder = build(work / f"abi{abi}", some, python)
        files |= gathered(folder, some, abi, python.suffix)
        files["_build_info.py"] = folder / "_build_info.py"
        minors += list(some)
    binaries = [path for path in files.values() if path.suffix == ".so"]
    into.mkdir(parents=True, exist_ok=True)
    tag = f"{python.tag}-{python.tag}-{platform_tag(binaries)}"
    wheel = pack(tag, minors, files, into)
    contents.check(wheel, minors, [str(ROOT), str(Path.home()), str(work)])
    return {
        "wheel": wheel.name,
        "bytes": wheel.stat().st_size,
        "sha256": digest(wheel),
        "libraries": {at: path.stat().st_size for at, path in sorted(files.items())},
    }


def main() -> None:
    """Build what the command line asks for and print what is in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="*", help="PyTorch versions (default: all)")
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "linux")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "linux")
    options = parser.parse_args()
    if not sys.platform.startswith("linux") or os.uname().machine != ARCH:
        raise Failure(f"expected Linux on {ARCH}, got {sys.platform}")
    if names := [name for name in options.torch or () if name not in KNOWN]:
        raise Failure(f"versions.toml lists no {', '.join(names)} under [wheels.torch]")
    pythons = [interpreter(command) for command in options.python]
    out, work = options.out.resolve(), options.work.resolve()
    trees = by_strings(options.torch or KNOWN)
    wheels = [make(trees, python, work, out) for python in pythons]
    (out / "wheels.json").write_text(json.dumps(wheels, indent=1) + "\n")
    for made in wheels:
        for name, size in made["libraries"].items():
            print(f"{size:>9} {name}")
        print(f"{made['wheel']}: {made['bytes']} bytes, sha256 {made['sha256']}\n")


if __name__ == "__main__":
    main()
