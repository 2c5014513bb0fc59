"""List the ATen operators that MPS has in each PyTorch, from its macOS wheel.

Operators with a kernel of their own for MPS are exported as functions of the
namespace at::mps.  Writes tests/metal/mps_operators.txt: an operator a line, with the
wheels that lack it.  tests/metal/test_mps_operators.py looks up there what we call.

Usage: python packaging macos.mps_operators [--check VERSION ...]
"""

from __future__ import annotations

import argparse
import re

from project import ROOT, Failure, default_python, versions

from macos import downloads, macho

TABLE = ROOT / "tests" / "metal" / "mps_operators.txt"
VERSIONS: list[str] = list(versions()["wheels"]["torch"])
PYTHON = default_python()
OUT = re.compile("_outf?$")
FUNCTION = re.compile(r"__ZN2at3mps(\d+)(\w+)")
HEAD = """\
# Operators with a kernel for MPS, and the PyTorch wheels that lack it.
# Written by packaging/macos/mps_operators.py from what the macOS wheels export.
"""


def exported(version: str) -> set[str]:
    """Return the names of the functions of at::mps that a macOS wheel exports."""
    tree = downloads.torch_tree(version, PYTHON)
    library = macho.read(tree / "torch" / "lib" / "libtorch_cpu.dylib")
    found = filter(None, map(FUNCTION.match, library.exports))
    names = {match[2][: int(match[1])] for match in found}
    # Not classes.  Some operators have only the variant that writes into a tensor.
    return {OUT.sub("", name) for name in names if not name[0].isupper()}


def table() -> str:
    """Return the table of every wheel."""
    have = {version: exported(version) for version in VERSIONS}
    lines = []
    for name in sorted(set().union(*have.values())):
        lacking = [version for version in VERSIONS if name not in have[version]]
        lines.append(" ".join([name, *lacking]))
    return HEAD + f"# wheels: {' '.join(VERSIONS)}\n" + "\n".join(lines) + "\n"


def check(version: str) -> None:
    """Compare one wheel with the table.

    Raises:
        Failure: they differ; names the operators.
    """
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    listed = {name for name, *lacking in rows if version not in lacking}
    if wrong := listed ^ exported(version):
        names = ", ".join(sorted(wrong))
        raise Failure(f"{TABLE.name} is wrong about PyTorch {version}: {names}")
    print(f"{TABLE.name}: {len(listed)} operators on MPS in PyTorch {version}")


def main() -> None:
    """Write the table, or check it against the wheels that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", nargs="+", choices=VERSIONS, metavar="VERSION")
    options = parser.parse_args()
    for version in options.check or ():
        check(version)
    if not options.check:
        TABLE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
