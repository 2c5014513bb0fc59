"""Build for a Mac with CMake: Apple's clang on a Mac, elsewhere zig's (zig.cmake)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from project import ROOT, Failure, versions

IS_NATIVE = sys.platform == "darwin"
# A packager's compiler compiles on a Mac (CXX).  Its flags do not: they name libraries
# of its own channel, and what is proved are the system's.
DROPPED = ("CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_GENERATOR")


def asked(*command: str | Path) -> str:
    """Return what a program prints."""
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return done.stdout.strip()


@cache
def zig() -> Path:
    """Return zig: that of the Python module ziglang, else the program on the path.

    Raises:
        Failure: there is none of the version that versions.toml names.
    """
    wanted = versions()["package"]["ziglang"]
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).with_name("zig")
    else:
        found = Path(shutil.which("zig") or "zig")
    version = asked(found, "version") if found.is_file() else "none"
    if version != wanted:
        raise Failure(
            f"expected zig {wanted}, came {version}: pip install ziglang=={wanted}, or "
            f"put a program zig {wanted} on the path"
        )
    return found


def zig_library() -> Path:
    """Return the folder of zig's own headers and stubs."""
    return Path(json.loads(asked(zig(), "env"))["lib_dir"])


def compiler_name() -> str:
    """Return what the wheels' table calls the compiler."""
    if IS_NATIVE:
        return os.environ.get("CXX", "Apple clang")
    return f"zig {asked(zig(), 'version')}"


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a packager's variables without those that would change what is built."""
    dropped = DROPPED if IS_NATIVE else (*DROPPED, "CXX")
    return {name: v for name, v in variables.items() if name not in dropped}


def run(*command: str | Path) -> None:
    """Run a command; its output is the error if it fails."""
    env = environment(os.environ)
    done = subprocess.run(command, text=True, capture_output=True, env=env)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Build:
    """CMake's build folder, for one PyTorch or many."""

    folder: Path
    trees: dict[str, Path]  # minor → unpacked PyTorch wheel
    metal_cpp: Path
    targets: dict[str, str]  # minor → the oldest macOS of its library
    is_strict: bool = False  # Warnings are errors: for our own machines alone.

    @property
    def oldest(self) -> str:
        """Return the macOS that the objects and the device's library are for."""
        return min(self.targets.values(), key=float)

    @property
    def stubs(self) -> Path:
        """Return where zig looks for the system's libraries."""
        return self.folder / "stubs"

    @property
    def stamp(self) -> Path:
        """Return the module that says which version was built."""
        return self.folder / "orchard_ops" / "_build_info.py"

    def configure(self, **options: str) -> None:
        """Run CMake; options are variables of its."""
        options |= {
            "Python_EXECUTABLE": sys.executable,
            "ORCHARD_TORCH_WHEEL": ";".join(map(str, self.trees.values())),
            "ORCHARD_PRECOMPILE": "ON",
            "ORCHARD_METAL_CPP_DIR": str(self.metal_cpp),
            "ORCHARD_WERROR": "ON" if self.is_strict else "OFF",
            "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        }
        if IS_NATIVE:
            options["CMAKE_OSX_ARCHITECTURES"] = "arm64"
            options["CMAKE_OSX_DEPLOYMENT_TARGET"] = self.oldest
        else:
            options["CMAKE_TOOLCHAIN_FILE"] = str(Path(__file__).with_name("zig.cmake"))
            options["ORCHARD_ZIG"] = str(zig())
            options["ORCHARD_STUBS"] = str(self.stubs)
            options["ORCHARD_MACOS"] = self.oldest
        defined = [f"-D{name}={value}" for name, value in options.items()]
        run("cmake", "-S", ROOT, "-B", self.folder, "-G", "Ninja", *defined)

    def make(self) -> None:
        """Build; what cannot be compiled is named whole, not one file at a time."""
        run("cmake", "--build", self.folder, "--", "-k", "0")

    def link(self) -> None:
        """Build all libraries, each for its macOS; the objects serve every one."""
        system = "-mmacosx-version-min=" if IS_NATIVE else "-target aarch64-macos."
        options = {"ORCHARD_LINK_OPTIONS": f"-s {system}{self.oldest}"}
        for minor, target in self.targets.items():
            options[f"ORCHARD_LINK_OPTIONS_{minor}"] = f"-s {system}{target}"
        self.configure(**options)
        self.make()

    @property
    def device(self) -> Path:
        """Return the library that every library of operators needs."""
        return self.folder / "orchard_ops" / "liborchard_device.dylib"

    @property
    def libraries(self) -> dict[str, Path]:
        """Return PyTorch minor → library of its operators."""
        folder = self.folder / "orchard_ops"
        return {minor: folder / f"_C.torch{minor}.so" for minor in self.trees}

    def objects(self) -> list[tuple[Path, Path]]:
        """Return source and object of all that is compiled."""
        commands = json.loads((self.folder / "compile_commands.json").read_text())
        pairs = [(Path(c["file"]), self.folder / c["output"]) for c in commands]
        return [pair for pair in pairs if not pair[0].name.startswith("cmake_pch.")]
