"""Compile all of csrc/ for macOS, warnings as errors, without a Mac.

zig's clang compiles every file for aarch64-macos, as a build on a Mac does, with the
headers of each pair of PyTorch and metal-cpp in versions.toml, [macos.compile]: the
simulator too, which no Mac builds, so that its C++ stays free of one compiler's ways.
Nothing is linked.

Usage: python packaging macos.compile [--torch 2.1.2 ...] [--sample]
"""

from __future__ import annotations

import argparse

from project import ROOT, Failure, default_python, minor, versions

from macos import downloads
from macos.build import Build

MATRIX = versions()
PAIRS: dict[str, str] = MATRIX["macos"]["compile"]
PYTHON = default_python()


def compile_all(version: str, metal_cpp_version: str) -> int:
    """Compile every file for one pair; return how many there were.

    Raises:
        Failure: some do not compile, or no target of CMake has them; names them.
    """
    build = Build(
        ROOT / "build" / "macos" / f"compile-{version}",
        {minor(version): downloads.torch_tree(version, PYTHON)},
        downloads.metal_cpp(PYTHON, metal_cpp_version),
        {minor(version): MATRIX["wheels"]["torch"][version]},
        is_strict=True,
    )
    fast = "-O0 -DNDEBUG"
    parts = {"ORCHARD_SIMULATOR": "ON", "ORCHARD_COMPILE_ONLY": "ON"}
    build.configure(CMAKE_CXX_FLAGS_RELEASE=fast, **parts)
    build.make()
    files = set(ROOT.glob("csrc/**/*.cpp"))
    if left_out := sorted(files - dict(build.objects()).keys()):
        raise Failure(f"CMake compiles no {', '.join(map(str, left_out))}")
    return len(files)


def main() -> None:
    """Compile for the pairs that the command line names, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="*", choices=PAIRS, help="default: all")
    parser.add_argument("--sample", action="store_true", help="the oldest alone")
    options = parser.parse_args()
    sample = [*PAIRS][:1] if options.sample else PAIRS
    for version in options.torch or sample:
        count = compile_all(version, PAIRS[version])
        print(
            f"{count} files compile for macOS with PyTorch {version} and the metal-cpp "
            f"of mlx-metal {PAIRS[version]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
