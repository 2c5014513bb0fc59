"""Build for a Mac with CMake: Apple's clang on a Mac, elsewhere zig's (zig.cmake)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from project import ROOT, Failure

IS_NATIVE = sys.platform == "darwin"
# What a packager's environment sets for a compiler of its own.
DROPPED = ("CXX", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_GENERATOR")


def zig() -> Path:
    """Return the zig of the Python module ziglang."""
    import ziglang

    return Path(ziglang.__file__).parent / "zig"


def compiler_name() -> str:
    """Return what the wheels' table calls the compiler."""
    if IS_NATIVE:
        return "Apple clang"
    asked = [str(zig()), "version"]
    done = subprocess.run(asked, check=True, text=True, capture_output=True)
    return f"zig {done.stdout.strip()}"


def run(*command: str | Path) -> None:
    """Run a command; its output is the error if it fails."""
    environment = {name: v for name, v in os.environ.items() if name not in DROPPED}
    done = subprocess.run(command, text=True, capture_output=True, env=environment)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Build:
    """CMake's build folder, for one PyTorch or many."""

    folder: Path
    trees: dict[str, Path]  # minor → unpacked PyTorch wheel
    metal_cpp: Path
    targets: dict[str, str]  # minor → the oldest macOS of its library

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
            "ORCHARD_WERROR": "ON",
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
