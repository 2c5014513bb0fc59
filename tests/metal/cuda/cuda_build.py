"""Build the operators over an NVIDIA GPU: csrc/torch with tests/metal/cuda's bridge."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cmake_sources import listed  # noqa: E402  Found beside it, not installed.

# CMake's lists, and what else there is.
LISTS = ("operator_sources", "attention_sources", "device_sources")
SOURCES = (
    *("csrc/device/sim/compile/translate.cpp", "csrc/device/sim/compile/token*.cpp"),
    "csrc/device/sim/compile/files.cpp",
    "tests/metal/cuda/*.cpp",
)
# bridge.cpp of tests/metal/cuda takes the place of the first.
LEFT_OUT = ("csrc/torch/bridge.cpp", "csrc/torch/mps_stream.cpp")
TEXTS = ("csrc/device/sim/msl/macros.h", "tests/metal/cuda/metal_on_cuda.h")


def files(*patterns: str) -> list[Path]:
    """Return the project's files that match, in a fixed order."""
    return sorted({path for p in patterns for path in ROOT.glob(p) if path.is_file()})


def sources() -> list[Path]:
    """Return what is compiled."""
    found = {*listed(*LISTS), *files(*SOURCES)}
    return sorted(found - {ROOT / name for name in LEFT_OUT})


def extension() -> ModuleType:
    """Return PyTorch's own build helpers, which older ones import setuptools for."""
    return importlib.import_module("torch.utils.cpp_extension")


def reason_against() -> str:
    """Return why the check cannot run here, or an empty string."""
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no NVIDIA GPU on this machine"
    missing = [name for name in (nvcc(), "c++") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found on PATH (CUDA toolkit, C++ compiler)"
    return ""


def nvcc() -> str:
    """Return the command that compiles the kernels."""
    return os.environ.get("ORCHARD_NVCC", "nvcc")


def stamp(path: Path) -> float:
    """Return when a file was last changed."""
    return path.stat().st_mtime


def run(command: list[str]) -> None:
    """Run a command; its output is the error if it fails."""
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def toolkit_include() -> Path:
    """Return the folder of CUDA's headers."""
    beside = Path(shutil.which(nvcc()) or nvcc()).resolve().parent.parent
    homes = [beside, Path(extension().CUDA_HOME or beside), Path("/usr/local/cuda")]
    for home in homes:
        if (home / "include" / "cuda.h").is_file():
            return home / "include"
    raise RuntimeError(f"no include/cuda.h in {', '.join(map(str, homes))}")


def compile_flags() -> list[str]:
    """Return the flags of every file."""
    return [
        *("-c", "-std=c++20", "-O2", "-fPIC", "-Wall", "-Wextra"),
        *(f"-I{ROOT / folder}" for folder in ("", "csrc", "tests/metal")),
        *(f"-isystem{path}" for path in extension().include_paths()),
        f"-isystem{toolkit_include()}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
    ]


def driver() -> list[str]:
    """Return the path of the driver's library, where there is one."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    maps = Path("/proc/self/maps").read_text().split()
    return sorted(word for word in maps if Path(word).name.startswith("libcuda.so"))[:1]


def build(folder: Path) -> Path:
    """Build the operator library in a folder; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    embedded = folder / "embedded_texts.cpp"
    embed = [sys.executable, str(ROOT / "cmake" / "embed.py"), str(embedded)]
    run([*embed, str(ROOT), *map(str, [*listed("texts"), *files(*TEXTS)])])
    flags = compile_flags()
    newest = max(
        map(stamp, files("csrc/**/*.h", "tests/metal/cuda/*.h", "kernels/params.h"))
    )

    def compiled(source: Path) -> str:
        part = source.resolve().parent.name
        out = folder / f"{part}-{source.stem}.o"
        if out.is_file() and out.stat().st_mtime > max(newest, stamp(source)):
            return str(out)
        run(["c++", *flags, str(source), "-o", str(out)])
        return str(out)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, [*sources(), embedded]))
    # First, since some libtorch exports parts of a C++ library of its own, too old
    # for ours: std::filesystem of PyTorch 2.11 for CUDA crashes when called by us.
    libraries = ["-lstdc++"]
    libraries += [f"-L{path}" for path in extension().library_paths()]
    libraries += ["-ltorch", "-ltorch_cpu", "-lc10", *driver()]
    minor = ".".join(torch.__version__.split(".")[:2])
    target = folder / f"_C.torch{minor}.so"
    run(["c++", "-shared", *objects, *libraries, "-o", str(target)])
    return folder


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
