"""Write dist/SHA256SUMS, or check that every package is what it says.

The file is that of ``sha256sum``, which checks it too: sha256sum --check SHA256SUMS.

Usage: python packaging checksums [--check] [FOLDER]  (default: dist)
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from project import ROOT

NAME = "SHA256SUMS"
PACKAGES = ("*.whl", "*.tar.gz", "*.conda")


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def packages(folder: Path) -> list[Path]:
    """Return the packages below a folder."""
    return sorted({path for pattern in PACKAGES for path in folder.rglob(pattern)})


def text(folder: Path) -> str:
    """Return a line for each package."""
    return "".join(
        f"{digest(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in packages(folder)
    )


def write(folder: Path) -> Path:
    """Write the file beside the packages."""
    path = folder / NAME
    path.write_text(text(folder), encoding="utf-8")
    return path


def problems(folder: Path) -> list[str]:
    """Return a sentence for each package that is not what the file says."""
    lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    said = {name: value for value, name in (line.split("  ", 1) for line in lines)}
    found = {str(p.relative_to(folder).as_posix()): p for p in packages(folder)}
    missing = [f"{name} is not there" for name in sorted(said.keys() - found.keys())]
    return [
        *missing,
        *(f"{name} is not in {NAME}" for name in sorted(found.keys() - said.keys())),
        *(
            f"{name}: expected {said[name]}, it is {digest(path)}"
            for name, path in found.items()
            if name in said and said[name] != digest(path)
        ),
    ]


def main() -> None:
    """Write or check the file of a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    options = parser.parse_args()
    if options.check:
        sys.exit("\n".join(problems(options.folder)) or 0)
    print(f"{write(options.folder)}:\n{text(options.folder)}", end="")


if __name__ == "__main__":
    main()
