"""The compiler and linker of macOS builds: Apple's clang on a Mac, else zig's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FRAMEWORKS = ("Foundation", "Metal")


class Failure(SystemExit):
    """What makes a wheel unfit, one sentence a line."""


@dataclass(frozen=True)
class Toolchain:
    """How to compile and link for a deployment target."""

    is_native: bool
    stubs: Path

    @property
    def name(self) -> str:
        """Return what the wheel's table calls it."""
        return "Apple clang" if self.is_native else "zig " + zig_version()

    def compiler(self, target: str) -> list[str]:
        """Return the command that compiles and links C++."""
        if self.is_native:
            flags = ["-arch", "arm64", f"-mmacosx-version-min={target}"]
            return ["xcrun", "clang++", *flags]
        return [sys.executable, "-m", "ziglang", "c++", "-target", zig_target(target)]

    def compile_flags(self) -> list[str]:
        """Return what keeps zig's C++ compatible with the system's libc++."""
        if self.is_native:
            return []
        return [
            # Only what the deployment target's libc++ has may be called.
            "-U_LIBCPP_HAS_NO_VENDOR_AVAILABILITY_ANNOTATIONS",
            "-fno-sanitize=undefined",
            # No PyTorch needs operator delete with a size, so none proves it.
            "-fno-sized-deallocation",
            f"-isystem{Path(__file__).parent / 'sdk'}",
        ]

    def linker(self, target: str) -> list[str]:
        """Return the command that links; zig's C one brings no libc++ along."""
        command = self.compiler(target)
        if not self.is_native:
            command[command.index("c++")] = "cc"
        return [*command, "-shared", "-s", "-Wl,-headerpad_max_install_names"]

    def system_libraries(self) -> list[str]:
        """Return the system's libraries that we link."""
        if self.is_native:
            return [f for name in FRAMEWORKS for f in ("-framework", name)] + ["-lobjc"]
        return sorted(str(path) for path in self.stubs.glob("*.tbd"))


def zig_version() -> str:
    """Return the version of the ziglang that runs."""
    command = [sys.executable, "-m", "ziglang", "version"]
    return subprocess.run(
        command, check=True, text=True, capture_output=True
    ).stdout.strip()


def zig_target(target: str) -> str:
    """Return zig's name of a deployment target."""
    return f"aarch64-macos.{target}"


def run(*command: str | Path) -> None:
    """Run a command; its output is the error if it fails."""
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
