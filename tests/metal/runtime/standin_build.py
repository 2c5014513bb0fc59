"""Build the Metal device over the stand-in, with zig's clang, in two forms.

A program of its own (``build``), and the package's libraries with PyTorch's mps
device (``build_for_torch``).  GCC has no blocks, which metal-cpp's headers are
full of, so whatever includes those is compiled by clang.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cmake_sources import listed  # noqa: E402  Found beside it, not installed.

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = CACHE / "orchard-ops-dev" / "metal_runtime"
# CMake's lists (support/cmake_sources.py).
DEVICE = ("device_sources", "metal_sources", "sim_sources")
ATTENTION = "attention_sources"
OPERATORS = "operator_sources"
TEXTS = ("texts", "sim_texts")
STAND_IN = ("tests/metal/runtime/*.cpp", "tests/metal/runtime/*.S")
# They depend on the PyTorch whose streams they are.
PYTORCH = ("tests/metal/runtime/pytorch/*.cpp",)
STREAMS = ("csrc/torch/mps_stream.cpp", "tests/metal/runtime/streams/*.cpp")
HEADERS = (
    "csrc/attention/*.h",
    "csrc/torch/**/*.h",
    "csrc/device/**/*.h",
    "kernels/params.h",
    "tests/metal/runtime/**/*.h",
)
PYTEST = "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
ZIG = [sys.executable, "-m", "ziglang"]


def files(*patterns: str) -> list[Path]:
    """Return the project's files that match, in a fixed order."""
    return sorted(path for p in patterns for path in ROOT.glob(p) if path.is_file())


def metal_cpp() -> Path:
    """Return metal-cpp's headers: given, or of the macOS wheel on PyPI."""
    given = os.environ.get("ORCHARD_METAL_CPP_DIR")
    if given:
        return Path(given)
    sys.path[:0] = [str(ROOT / name) for name in ("packaging", "cmake", "tools")]
    from macos import downloads

    return downloads.metal_cpp("3.11")


def run(command: list[str]) -> None:
    """Run a command; its output is the error if it fails."""
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def own_includes() -> list[str]:
    """Return where our headers and the stand-in's lie."""
    return [
        *(f"-I{ROOT}", f"-I{ROOT / 'csrc'}", f"-I{HERE}"),
        *("-isystem", str(HERE / "include")),
    ]


def clang() -> list[str]:
    """Return the command that compiles what metal-cpp is a part of."""
    return [
        *(*ZIG, "c++", "-c", "-std=c++20", "-O1", "-g0", "-fblocks"),
        # The simulator walks stacks and switches them.
        *("-fno-sanitize=undefined", "-fno-omit-frame-pointer", "-pthread"),
        *("-Wall", "-Wextra", *own_includes()),
        *("-isystem", str(ROOT / "packaging" / "macos" / "sdk")),
        *("-isystem", str(metal_cpp())),
    ]


@dataclass(frozen=True)
class Folder:
    """Objects by content, and what is linked of them."""

    path: Path
    headers: bytes  # digest of every header

    def compile(self, command: list[str], source: Path) -> str:
        """Compile a file, unless its object is there already."""
        # Environments share objects if they have the same zig (and PyTorch, whose
        # version is a flag): where an environment lies is no part of the key.
        words = [word.replace(sys.prefix, "") for word in command]
        text = "\0".join([metadata.version("ziglang"), *words]).encode()
        key = hashlib.sha256(text + self.headers + source.read_bytes()).hexdigest()
        out = self.path / f"{source.stem}-{key[:16]}.o"
        make(out, [*command, str(source)])
        return str(out)

    def precompile(self, command: list[str], headers: list[str]) -> Path:
        """Precompile headers, unless they are; return what to ``-include`` for them."""
        text = "".join(f"#include <{name}>\n" for name in headers)
        words = [word.replace(sys.prefix, "") for word in command]
        key = hashlib.sha256("\0".join([*words, text]).encode()).hexdigest()
        header = self.path / f"torch-{key[:16]}.h"
        if not header.exists():
            header.write_text(text, encoding="utf-8")
        make(header.with_suffix(".h.gch"), [*command, "-x", "c++-header", str(header)])
        return header

    def together(self, sources: list[Path], count: int = 8) -> list[Path]:
        """Write files that include so many sources each, as CMake's unity builds do.

        What each includes is told apart by what it holds, as its object must be.
        """
        made = []
        for start in range(0, len(sources), count):
            text = ""
            for path in sources[start : start + count]:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                text += f'#include "{path}"  // {digest}\n'
            key = hashlib.sha256(text.encode()).hexdigest()
            made.append(self.path / f"together-{key[:16]}.cpp")
            if not made[-1].exists():
                made[-1].write_text(text, encoding="utf-8")
        return made

    def compile_all(self, jobs: list[tuple[list[str], Path]]) -> list[str]:
        """Compile files, as many at a time as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda job: self.compile(*job), jobs))

    def named(self, name: str, objects: list[str]) -> Path:
        """Return the path of what is linked of these objects alone.

        Another checkout has other objects, so neither overwrites the other's.
        """
        key = hashlib.sha256("\0".join(objects).encode()).hexdigest()
        return self.path / f"{name}-{key[:16]}"


def make(out: Path, command: list[str]) -> None:
    """Compile or link, unless it is there already: its path names what it is of."""
    if not out.exists():
        part = f"{out}.{os.getpid()}.part"
        run([*command, "-o", part])
        Path(part).rename(out)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Folder, Path]]:
    """Hold a folder that later builds reuse; yields it and the kernels' texts."""
    path.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for header in files(*HEADERS):
        digest.update(header.read_bytes())
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        embedded = path / "embedded_texts.cpp"
        embed = [sys.executable, str(ROOT / "cmake" / "embed.py"), str(embedded)]
        run([*embed, str(ROOT), *map(str, listed(*TEXTS))])
        yield Folder(path, digest.digest()), embedded


def build(path: Path, minor: int) -> Path:
    """Build the program in a folder; return its path.

    ``minor`` is the PyTorch whose streams it has: 2.4, 2.14, ...
    """
    with opened(path) as (folder, embedded):
        plain = clang()
        streams = [*plain, "-DORCHARD_TORCH_MAJOR=2", f"-DORCHARD_TORCH_MINOR={minor}"]
        own = files(*STAND_IN, "tests/metal/runtime/program/*.cpp")
        own += listed(*DEVICE, ATTENTION)
        jobs = [(plain, source) for source in [*own, embedded]]
        jobs += [(streams, source) for source in files(*STREAMS)]
        objects = folder.compile_all(jobs)
        program = folder.named(f"test_metal-2.{minor}", objects)
        # The simulator's compiled kernels find its functions in us.
        make(program, [*ZIG, "c++", "-rdynamic", "-pthread", "-ldl", *objects])
    return program


def gcc_headers() -> list[str]:
    """Return flags that make zig's clang use GCC's C++ library, as PyTorch does."""
    asked = ["g++", "-E", "-x", "c++", "-v", "/dev/null"]
    said = subprocess.run(asked, check=True, text=True, capture_output=True).stderr
    folders = re.findall(r"^ (/\S*c\+\+\S*)$", said, re.MULTILINE)
    # libc++'s headers bring <math.h> along, which metal-cpp relies on.
    return ["-nostdinc++", *(f"-I{folder}" for folder in folders), "-include", "math.h"]


def torch_flags(root: Path) -> tuple[str, list[str]]:
    """Return the string ABI's flag, and the other flags for a PyTorch."""
    import find_torch

    version, include = find_torch.torch_version(root), find_torch.include_folder(root)
    major, minor, _ = version.split(".")
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(find_torch.has_cxx11_abi(root))}"
    return abi, [
        *("-isystem", str(include)),
        *("-isystem", str(include / "torch" / "csrc" / "api" / "include")),
        *(f"-DORCHARD_TORCH_MAJOR={major}", f"-DORCHARD_TORCH_MINOR={minor}"),
    ]


def device_objects(folder: Folder, embedded: Path, abi: str) -> list[str]:
    """Compile the device library: the Metal device, the stand-in, the simulator."""
    metal = [*clang(), "-fPIC", *gcc_headers(), abi]
    sources = [*listed(*DEVICE), *files(STAND_IN[0]), embedded]
    jobs = [(metal, source) for source in sources]
    jobs += [(["g++", "-c", "-fPIC"], source) for source in files(STAND_IN[1])]
    return folder.compile_all(jobs)


def operator_objects(folder: Folder, flags: list[str]) -> list[str]:
    """Compile _C with the MPS key, PyTorch's streams and its mps device."""
    plain = ["g++", "-c", "-std=c++20", "-O1", "-g0", "-fPIC", *own_includes(), *flags]
    plain += ["-DORCHARD_WITH_METAL", "-DORCHARD_WITH_SIMULATOR"]
    # As CMakeLists.txt does: they take most of the time.
    torch = folder.precompile(plain, ["ATen/ATen.h", "torch/library.h"])
    plain += ["-include", str(torch)]
    sources = [*listed(ATTENTION, OPERATORS), *files(STREAMS[1], *PYTORCH)]
    return folder.compile_all([(plain, x) for x in folder.together(sources)])


def environment(libraries: Path, mode: str = "private") -> dict[str, str]:
    """Return what makes a Python, and its children, find the stand-in's mps device.

    ``libraries`` is what `build_for_torch` returned, ``mode`` the storage mode of
    PyTorch's buffers, which are private up to 2.11 and then shared.
    """
    import mps_table
    import torch

    site = str(HERE / "pytorch" / "site")
    paths = [site, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "ORCHARD_TEST_DEVICE": "mps",
        "ORCHARD_LIBRARY_DIR": str(libraries),
        "ORCHARD_SIM_CXX": f"{sys.executable} -m ziglang c++",
        "STANDIN_STORAGE_MODE": mode,
        "STANDIN_OPERATORS": " ".join(mps_table.operators(torch.__version__)),
    }


def build_for_torch(path: Path = FOLDER) -> Path:
    """Build _C with the MPS key, and the mps device, for the running PyTorch.

    Returns the folder to name in ORCHARD_LIBRARY_DIR.
    """
    sys.path.insert(0, str(ROOT / "cmake"))
    import find_torch

    root = find_torch.torch_root()
    abi, flags = torch_flags(root)
    with opened(path) as (folder, embedded):
        device = device_objects(folder, embedded, abi)
        operators = operator_objects(folder, [abi, *flags])
        name = f"mps-{find_torch.torch_version(root)}"
        libraries = folder.named(name, [*device, *operators])
        libraries.mkdir(exist_ok=True)
        command = ["g++", "-shared", "-pthread", "-Wl,-z,defs"]
        library = libraries / "liborchard_device.so"
        make(library, [*command, f"-Wl,-soname,{library.name}", *device, "-ldl"])
        needed = [root / "lib" / f"lib{name}.so" for name in ("torch_cpu", "c10")]
        # -Bsymbolic: libtorch has a torch::mps of its own, which finds no MPS.
        command.append("-Wl,-Bsymbolic,-rpath,$ORIGIN")
        also = [str(library), *map(str, needed)]
        minor = find_torch.torch_version(root).rpartition(".")[0]
        make(libraries / f"_C.torch{minor}.so", [*command, *operators, *also])
    return libraries
