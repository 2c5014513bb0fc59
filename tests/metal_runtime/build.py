"""Build the Metal device over the stand-in as one program, with zig's clang.

GCC has no blocks, which metal-cpp's headers are full of.  Everything that the
program is made of is compiled here, so that it has one C++ library.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = (
    *("csrc/device/*.cpp", "csrc/device/sim/*.cpp", "csrc/device/metal/*.cpp"),
    *(
        "csrc/attention/*.cpp",
        "csrc/torch/mps_stream.cpp",
        "tests/metal_runtime/*.cpp",
        "tests/metal_runtime/*.S",
    ),
)
TEXTS = ("kernels/**/*.metal", "kernels/**/*.h", "csrc/device/sim/msl/*")
HEADERS = (
    "csrc/attention/*.h",
    "csrc/torch/mps_stream.h",
    "csrc/device/**/*.h",
    "tests/metal_runtime/**/*.h",
)


def files(*patterns: str) -> list[Path]:
    """Return the project's files that match, in a fixed order."""
    return sorted(path for p in patterns for path in ROOT.glob(p) if path.is_file())


def metal_cpp() -> Path:
    """Return metal-cpp's headers: given, or of the macOS wheel on PyPI."""
    given = os.environ.get("ORCHARD_METAL_CPP_DIR")
    if given:
        return Path(given)
    sys.path.insert(0, str(ROOT / "tools"))
    import macos_torch

    return macos_torch.metal_cpp("3.11")


def run(command: list[str]) -> None:
    """Run a command; its output is the error if it fails."""
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def compile_flags(headers: Path) -> list[str]:
    """Return the flags of every file."""
    return [
        *("-c", "-std=c++20", "-O1", "-g0", "-fblocks", "-fno-sanitize=undefined"),
        # The simulator walks stacks and switches them.
        *("-fno-omit-frame-pointer", "-pthread", "-Wall", "-Wextra"),
        *(f"-I{ROOT}", f"-I{ROOT / 'csrc'}", f"-I{HERE}"),
        *(f"-isystem{HERE / 'include'}", f"-isystem{ROOT / 'tools' / 'macos_sdk'}"),
        f"-isystem{headers}",
    ]


def torch_flags(source: Path, minor: int) -> list[str]:
    """Return the flags of a file that depends on the PyTorch minor version."""
    if source.name not in ("mps_stream.cpp", "mps.cpp"):
        return []
    return ["-DORCHARD_TORCH_MAJOR=2", f"-DORCHARD_TORCH_MINOR={minor}"]


def build(folder: Path, minor: int) -> Path:
    """Build the program in a folder that later builds reuse; return its path.

    ``minor`` is the PyTorch whose streams it has: 2.4, 2.14, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        zig = [sys.executable, "-m", "ziglang"]
        embedded = folder / "embedded_texts.cpp"
        embed = [sys.executable, str(ROOT / "cmake" / "embed.py"), str(embedded)]
        run([*embed, str(ROOT), *map(str, files(*TEXTS))])
        flags = compile_flags(metal_cpp())
        seed = hashlib.sha256("\0".join(flags).encode())
        for path in files(*HEADERS):
            seed.update(path.read_bytes())

        def compiled(source: Path) -> str:
            also = torch_flags(source, minor)
            key = seed.copy()
            key.update(source.read_bytes() + "".join(also).encode())
            out = folder / f"{source.stem}-{key.hexdigest()[:16]}.o"
            if not out.exists():
                part = f"{out}.part"
                run([*zig, "c++", *flags, *also, str(source), "-o", part])
                Path(part).rename(out)
            return str(out)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, [*files(*SOURCES), embedded]))
        program = folder / f"test_metal-2.{minor}"
        key = hashlib.sha256("\0".join(objects).encode()).hexdigest()
        stamp = folder / f"linked-2.{minor}"
        if not program.exists() or not stamp.exists() or stamp.read_text() != key:
            # The simulator's compiled kernels find its functions in us.
            link = ["-rdynamic", "-pthread", "-ldl", "-o", str(program)]
            run([*zig, "c++", *objects, *link])
            stamp.write_text(key)
    return program


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), int(sys.argv[2])))
