"""Tell CMake where a PyTorch lies and how it was built, without importing it.

Prints ``version;major;minor;cxx11_abi;root;include`` for the PyTorch in the
folder given as argument (an unpacked wheel: the folder that holds ``torch/``), or
in the one that the environment variable ORCHARD_TORCH_WHEEL names, or else for
that of the interpreter that runs this script.  Reading files rather than importing
keeps this fast and works where the wheel's own libraries cannot load.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

OLDEST = (2, 1)
OLDEST_MACOS = 13
HOW_TO_GET = (
    f"install PyTorch {'.'.join(map(str, OLDEST))} or newer into the interpreter that "
    "builds and build with pip's --no-build-isolation, or set the environment "
    "variable ORCHARD_TORCH_WHEEL to the folder of an unpacked wheel"
)
# A constructor that takes a std::string: its name spells the string's ABI.
NEW_STRING = b"_ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx11"


def check_platform() -> None:
    """Refuse, in one sentence, a machine that nothing can be built for."""
    if sys.platform not in ("darwin", "linux"):
        raise SystemExit(
            "[orchard_ops] expected macOS on Apple silicon or Linux, got "
            f"{sys.platform}: neither Metal nor its simulator runs here"
        )
    if sys.platform != "darwin":
        return
    if platform.machine() != "arm64":
        raise SystemExit(
            f"[orchard_ops] expected a Mac with Apple silicon and a Python for it, got "
            f"a Python for {platform.machine()} (an Intel Mac, or Rosetta): install "
            "an arm64 Python, if the Mac is an M1 or newer"
        )
    macos = platform.mac_ver()[0]
    # Some Pythons see 10.16 on every newer macOS; no arm64 Mac had a real 10.
    if macos and 10 < int(macos.partition(".")[0]) < OLDEST_MACOS:
        raise SystemExit(
            f"[orchard_ops] expected macOS {OLDEST_MACOS} or newer, whose Metal the "
            f"kernels need, got {macos}: update macOS"
        )


def torch_root(wheel: str = "") -> Path:
    """Return the folder ``torch/`` of a wheel, or of this interpreter."""
    wheel = wheel or os.environ.get("ORCHARD_TORCH_WHEEL", "")
    if wheel:
        root = Path(wheel).resolve() / "torch"
        if not (root / "version.py").is_file():
            raise SystemExit(f"[orchard_ops] no PyTorch in {root}: {HOW_TO_GET}")
        return root
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(f"[orchard_ops] {sys.executable} has no PyTorch: {HOW_TO_GET}")
    return Path(spec.origin).parent


def torch_version(root: Path) -> str:
    """Return the version of a PyTorch, such as 2.4.1 (no local part)."""
    text = (root / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^__version__ = '(\d+\.\d+\.\d+)", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"[orchard_ops] {root}/version.py names no version")
    version = match[1]
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise SystemExit(
            f"[orchard_ops] PyTorch {version} in {root} is too old: {HOW_TO_GET}"
        )
    return version


def include_folder(root: Path) -> Path:
    """Return the folder of the C++ headers: conda's lie in the environment's."""
    folders = [root / "include", *(up / "include" for up in list(root.parents)[2:4])]
    for folder in folders:
        if (folder / "ATen" / "ATen.h").is_file():
            return folder
    raise SystemExit(
        f"[orchard_ops] PyTorch in {root} lacks its C++ headers (ATen/ATen.h in "
        f"{folders[0]}): {HOW_TO_GET}"
    )


def has_cxx11_abi(root: Path) -> bool:
    """Say which std::string a Linux PyTorch was built with."""
    library = root / "lib" / "libc10.so"
    return not library.is_file() or NEW_STRING in library.read_bytes()


def main() -> None:
    """Print the answer as one CMake list."""
    check_platform()
    root = torch_root(sys.argv[1] if len(sys.argv) > 1 else "")
    version = torch_version(root)
    major, minor, _ = version.split(".")
    folders = root.as_posix(), include_folder(root).as_posix()
    print(version, major, minor, int(has_cxx11_abi(root)), *folders, sep=";")


if __name__ == "__main__":
    main()
