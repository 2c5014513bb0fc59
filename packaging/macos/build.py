"""Compile and link what a macOS wheel holds, each object once."""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from project import ROOT

from macos import checks
from macos.pack import sources
from macos.toolchain import Toolchain, run

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]


def text_digest() -> bytes:
    """Return a digest of every text that an object may depend on."""
    digest = hashlib.sha256()
    for path in sources("csrc/**/*.h", "kernels/**/*"):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.digest()


class Builder:
    """The objects, libraries and wheels of one folder."""

    def __init__(
        self, folder: Path, toolchain: Toolchain, tree: Path, metal_cpp: Path
    ) -> None:
        """Build in a folder, for an unpacked PyTorch, with metal-cpp's headers."""
        self.folder, self.toolchain = folder, toolchain
        self.tree, self.metal_cpp = tree, metal_cpp
        self.places = {str(p): n for n, p in enumerate((tree, metal_cpp, folder, ROOT))}
        self.digest = text_digest()
        self.tables = checks.metal_cpp_tables(metal_cpp)

    def embedded(self) -> Path:
        """Write the kernels' texts as C++."""
        out = self.folder / "embedded_texts.cpp"
        texts = sources("kernels/*.metal", "kernels/**/*.h")
        run(sys.executable, ROOT / "cmake" / "embed.py", out, ROOT, *texts)
        return out

    def compile(self, source: Path, target: str, name: str, flags: list[str]) -> Path:
        """Compile a file, unless its object is there already."""
        command = [*self.toolchain.compiler(target), "-c", "-std=c++20", "-O2", "-g0"]
        command += [*WARNINGS, "-fblocks", "-fPIC", *self.toolchain.compile_flags()]
        # No path of this machine may travel in __FILE__.
        command += [f"-ffile-prefix-map={ROOT}=.", f"-ffile-prefix-map={self.folder}=."]
        command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT}", *flags, str(source)]
        # Where inputs lie changes nothing, so another place finds the same objects.
        text = "\0".join([self.toolchain.name, *command[command.index("-c") :]])
        for place, number in self.places.items():
            text = text.replace(place, f"<{number}>")
        key = hashlib.sha256(f"{target}\0{text}".encode() + self.digest)
        key.update(source.read_bytes())
        out = self.folder / name / f"{source.stem}-{key.hexdigest()[:16]}.o"
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            run(*command, "-o", str(out) + ".part")
            Path(str(out) + ".part").rename(out)
        return out

    def compile_all(
        self, files: list[Path], target: str, name: str, flags: list[str]
    ) -> list[Path]:
        """Compile files, as many at a time as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(
                pool.map(lambda file: self.compile(file, target, name, flags), files)
            )

    def device_objects(self, target: str) -> list[Path]:
        """Compile the device library: no torch in it."""
        files = sources("csrc/device/*.cpp", "csrc/device/metal/*.cpp")
        flags = [f"-isystem{self.metal_cpp}"]
        return self.compile_all([*files, self.embedded()], target, "device", flags)

    def operator_objects(self, target: str, version: str) -> list[Path]:
        """Compile the operators for a PyTorch."""
        include = self.tree / "torch" / "include"
        major, minor, _ = version.split(".")
        flags = [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
        flags += [f"-ffile-prefix-map={self.tree}=.", "-DORCHARD_WITH_METAL"]
        flags += [f"-DORCHARD_TORCH_MAJOR={major}", f"-DORCHARD_TORCH_MINOR={minor}"]
        flags += [f'-DORCHARD_TORCH_VERSION="{version}"']
        files = sources(
            "csrc/torch/*.cpp", "csrc/torch/trace/*.cpp", "csrc/attention/*.cpp"
        )
        return self.compile_all(files, target, f"torch-{version}", flags)

    def link(self, target: str, objects: list[Path], out: Path, *also: str) -> Path:
        """Link one library that finds its neighbours by its own place."""
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.toolchain.linker(target), "-o", str(out), *map(str, objects)]
        command += [f"-Wl,-install_name,@rpath/{out.name}", *also]
        run(*command, *self.toolchain.system_libraries())
        return out
