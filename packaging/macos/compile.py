"""Compile all of csrc/ for macOS, warnings as errors, without a Mac.

zig's clang compiles every file for aarch64-macos, as a build on a Mac does, with the
headers of each pair of PyTorch and metal-cpp in versions.toml, [macos.compile]: the
simulator too, which no Mac builds, so that its C++ stays free of one compiler's ways.
Nothing is linked.

Usage: python packaging macos.compile [--torch 2.1.2 ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from project import ROOT

from macos import downloads
from macos.build import WARNINGS
from macos.pack import MATRIX, sources
from macos.toolchain import Failure, Toolchain

PAIRS: dict[str, str] = MATRIX["macos"]["compile"]
PYTHON = MATRIX["torch"][MATRIX["package"]["default"]]["python"]


def flags(version: str, tree: Path, metal_cpp: Path) -> list[str]:
    """Return what a native build with CMake compiles with, for a PyTorch."""
    import pybind11

    include = tree / "torch" / "include"
    major, minor, _ = version.split(".")
    return [
        *(f"-I{ROOT / 'csrc'}", f"-I{ROOT}"),
        *("-isystem", str(include)),
        *("-isystem", str(include / "torch" / "csrc" / "api" / "include")),
        *("-isystem", str(metal_cpp)),
        # Of the Python that runs this: the module needs some Python's declarations.
        *("-isystem", pybind11.get_include()),
        *("-isystem", sysconfig.get_path("include")),
        "-DORCHARD_WITH_METAL",
        *(f"-DORCHARD_TORCH_MAJOR={major}", f"-DORCHARD_TORCH_MINOR={minor}"),
        f'-DORCHARD_TORCH_VERSION="{version}"',
    ]


def problem(command: list[str], source: Path) -> str:
    """Return what the compiler says against a file, or nothing."""
    # zig wants an object even of a check of the syntax.
    with tempfile.TemporaryDirectory(prefix="orchard-compile-") as folder:
        output = ["-o", str(Path(folder, "object.o"))]
        done = subprocess.run(
            [*command, str(source), *output], text=True, capture_output=True
        )
    return "" if done.returncode == 0 else f"{source.relative_to(ROOT)}\n{done.stderr}"


def compile_all(version: str, metal_cpp_version: str) -> int:
    """Compile every file for one pair; return how many there were.

    Raises:
        Failure: some do not compile; holds the compiler's text of each.
    """
    tree = downloads.torch_tree(version, PYTHON)
    metal_cpp = downloads.metal_cpp(PYTHON, metal_cpp_version)
    toolchain = Toolchain(is_native=False, stubs=ROOT)
    command = [*toolchain.compiler(MATRIX["macos"]["torch"][version])]
    command += ["-c", "-O0", "-std=c++20", "-fblocks", *WARNINGS]
    command += [*toolchain.compile_flags(), *flags(version, tree, metal_cpp)]
    files = sources("csrc/**/*.cpp")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(lambda source: problem(command, source), files))
    if found := [text for text in said if text]:
        raise Failure(f"for PyTorch {version} on macOS:\n" + "\n".join(found))
    return len(files)


def main() -> None:
    """Compile for the pairs that the command line names, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="*", choices=PAIRS, help="default: all")
    options = parser.parse_args()
    for version in options.torch or PAIRS:
        count = compile_all(version, PAIRS[version])
        print(
            f"{count} files compile for macOS with PyTorch {version} and the metal-cpp "
            f"of mlx-metal {PAIRS[version]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
