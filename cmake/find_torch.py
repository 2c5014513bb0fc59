"""Tell CMake where a PyTorch lies and how it was built, without importing it.

Prints ``version;major;minor;cxx11_abi;root`` for the PyTorch of the interpreter
that runs this script, or for the one in the folder given as its argument (an
unpacked wheel: the folder that holds ``torch/``).  Reading files rather than
importing keeps this fast and works where the wheel's own libraries cannot load.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

OLDEST = (2, 1)
HOW_TO_GET = (
    "install PyTorch into this interpreter and build with --no-build-isolation, "
    "or pass -DORCHARD_TORCH_WHEEL=<folder of an unpacked wheel>"
)
# A constructor that takes a std::string: its name spells the string's ABI.
NEW_STRING = b"_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx11"


def torch_root(wheel: str) -> Path:
    """Return the folder ``torch/`` of a wheel, or of this interpreter."""
    if wheel:
        root = Path(wheel).resolve() / "torch"
        if not (root / "version.py").is_file():
            raise SystemExit(f"no PyTorch in {root}: {HOW_TO_GET}")
        return root
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(f"{sys.executable} has no PyTorch: {HOW_TO_GET}")
    return Path(spec.origin).parent


def torch_version(root: Path) -> str:
    """Return the version of a PyTorch, such as 2.4.1 (no local part)."""
    text = (root / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^__version__ = '(\d+\.\d+\.\d+)", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{root}/version.py names no version")
    version = match[1]
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise SystemExit(f"PyTorch {version} in {root} is older than 2.1: {HOW_TO_GET}")
    return version


def has_cxx11_abi(root: Path) -> bool:
    """Say which std::string a Linux PyTorch was built with."""
    library = root / "lib" / "libc10.so"
    return not library.is_file() or NEW_STRING in library.read_bytes()


def main() -> None:
    """Print the answer as one CMake list."""
    root = torch_root(sys.argv[1] if len(sys.argv) > 1 else "")
    version = torch_version(root)
    major, minor, _ = version.split(".")
    print(version, major, minor, int(has_cxx11_abi(root)), root.as_posix(), sep=";")


if __name__ == "__main__":
    main()
