"""Build macOS arm64 wheels, on a Mac with Apple's clang or elsewhere with zig.

One wheel for each PyTorch and deployment target of versions.toml.  The wheels
hold no Python extension, so one serves every Python.  Objects are compiled for
the oldest target that a PyTorch allows; wheels for newer ones differ in what the
loader checks.  Each binary is then proved (tools/macos_checks.py), packed with
fixed times and order, and listed in dist/macos/wheels.json.

Usage: python tools/macos_wheels.py [--torch 2.4.1 ...] [--target 14.0 ...]

A packager who has PyTorch and metal-cpp unpacked names their folders (--tree,
--metal-cpp); nothing is downloaded then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import macho
import macos_checks as checks
import macos_torch
import package_contents
from macos_pack import MATRIX, check_wheel, pack, sources
from macos_toolchain import ROOT, Failure, Toolchain, run

sys.path.insert(0, str(ROOT / "cmake"))
import find_torch

DEVICE, OPERATORS = "liborchard_device.dylib", "_C.so"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
TABLE = "{torch:>7} {python:>7} {target:>6} {bytes:>8} {symbols:>7} {messages:>9}  "
HEADINGS = {
    **{name: name for name in ("torch", "python", "target", "bytes", "symbols")},
    "messages": "selectors",
}
WITNESS = "2.4.1"  # Its libraries load on macOS 11: all they need is there.


def text_digest() -> bytes:
    """Return a digest of every text that an object may depend on."""
    digest = hashlib.sha256()
    for path in sources("csrc/*/*.h", "csrc/device/metal/*.h", "kernels/**/*"):
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
        files = sources("csrc/torch/*.cpp", "csrc/attention/*.cpp")
        return self.compile_all(files, target, f"torch-{version}", flags)

    def link(self, target: str, objects: list[Path], out: Path, *also: str) -> Path:
        """Link one library that finds its neighbours by its own place."""
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.toolchain.linker(target), "-o", str(out), *map(str, objects)]
        command += [f"-Wl,-install_name,@rpath/{out.name}", *also]
        run(*command, *self.toolchain.system_libraries())
        return out


def libraries(tree: Path) -> list[macho.MachO]:
    """Return a PyTorch's libraries."""
    folder = tree / "torch" / "lib"
    return [macho.read(folder / f"lib{name}.dylib") for name in ("c10", "torch_cpu")]


def owners_for(
    target: str, torch: list[macho.MachO], old: list[macho.MachO]
) -> checks.Owners:
    """Return who exports what, where a PyTorch runs on a macOS."""
    owners = checks.Owners()
    for library in torch:
        owners.add_library(library)
    for library in [*torch, *old]:
        if checks.number(library.minimum_os) <= checks.number(target):
            owners.add_witness(library)
    owners.add_known(target)
    if sys.platform != "darwin":
        import ziglang  # type: ignore[import-untyped]

        folder = Path(ziglang.__file__).parent / "lib" / "libc" / "darwin"
        names = checks.tbd_symbols((folder / "libSystem.tbd").read_text())
        owners.exports.setdefault(checks.SYSTEM, set()).update(names)
    return owners


def write_stubs(owners: checks.Owners, folder: Path) -> None:
    """Write stubs of the system's libraries but libSystem, which zig has."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for owner in (checks.CXX, checks.OBJC, checks.METAL, checks.FOUNDATION):
        (folder / f"{Path(owner).name}.tbd").write_text(owners.stub(owner))


def check(
    tables: dict[str, str],
    folders: list[str],
    target: str,
    owners: checks.Owners,
    binaries: list[Path],
    objects: list[Path],
) -> tuple[int, list[str]]:
    """Prove binaries; return the number of symbols and the messages they send."""
    problems, count = [], 0
    for path in binaries:
        binary = macho.read(path)
        owners.add_library(binary)
        found = checks.unowned(binary, owners)
        found += checks.misbuilt(binary, target, path.read_bytes(), folders)
        problems += [f"{path.name}: {sentence}" for sentence in found]
        count += len(binary.imports)
    senders = [o for o in objects if not o.name.startswith("implementation-")]
    used = checks.messages([macho.read(path) for path in senders])
    problems += checks.unfit_messages(used, tables, target)
    if problems:
        raise Failure("\n".join(problems))
    return count, sorted(tables[name] for name in used)


def build_torch(
    version: str, targets: list[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Build the wheels of one PyTorch; return a row of the table for each."""
    python = MATRIX["torch"]["torch24"]["python"]
    folder, into = options.work.resolve(), options.out.resolve()
    tree = options.tree or macos_torch.torch_tree(version, python)
    torch = libraries(tree)
    old = [] if options.tree else libraries(macos_torch.torch_tree(WITNESS, python))
    toolchain = Toolchain(sys.platform == "darwin", folder / f"stubs-{version}")
    metal_cpp = options.metal_cpp or macos_torch.metal_cpp(python)
    builder = Builder(folder, toolchain, tree.resolve(), metal_cpp.resolve())
    lowest = MATRIX["macos"]["torch"][version]
    operators = builder.operator_objects(lowest, version)
    device = builder.device_objects(lowest)
    rows = []
    for target in targets:
        owners = owners_for(target, torch, old)
        write_stubs(owners, toolchain.stubs)
        place = folder / f"torch-{version}" / target
        library = builder.link(target, device, place / DEVICE)
        torch_libraries = [str(found.path) for found in torch]
        rpaths = [f"-Wl,-rpath,@loader_path{p}" for p in ("", "/../torch/lib")]
        also = [str(library), *torch_libraries, *rpaths]
        module = builder.link(target, operators, place / OPERATORS, *also)
        folders = [*builder.places, str(Path.home())]
        objects = [*device, *operators]
        count, sent = check(
            builder.tables, folders, target, owners, [library, module], objects
        )
        wheel = pack(version, target, [library, module], into)
        check_wheel(wheel, version, target)
        held = package_contents.read_wheel(wheel)
        minor = version.rpartition(".")[0]
        if found := package_contents.problems(held, minor, folders):
            raise Failure("\n".join(f"{wheel.name}: {sentence}" for sentence in found))
        rows.append(
            {
                "wheel": wheel.name,
                "torch": version,
                "python": "any 3",
                "target": target,
                "built_with": toolchain.name,
                "bytes": wheel.stat().st_size,
                "symbols": count,
                "messages": len(sent),
                "sent": sent,
                "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            }
        )
        print(f"{wheel.name}: {count} symbols, {len(sent)} messages", flush=True)
    return rows


def wanted(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the deployment targets to build for each PyTorch."""
    chosen: dict[str, list[str]] = {}
    if options.tree:
        options.torch = [find_torch.torch_version(options.tree / "torch")]
    for version, lowest in MATRIX["macos"]["torch"].items():
        targets = [
            target
            for target in options.target or MATRIX["macos"]["deployment_targets"]
            if checks.number(target) >= checks.number(lowest)
        ]
        if targets and version in (options.torch or [version]):
            chosen[version] = targets
    return chosen


def fetch(versions: Iterable[str]) -> None:
    """Fetch all that comes from the network, so that what is missing fails first."""
    python = MATRIX["torch"]["torch24"]["python"]
    missing = []
    for version in sorted({WITNESS, *versions}, key=checks.number):
        try:
            macos_torch.torch_tree(version, python)
        except macos_torch.NotFetchedError as error:
            missing.append(f"{error}\nOr leave it out: name the others after --torch.")
    if missing:
        raise Failure("\n\n".join(missing))


def main() -> None:
    """Build what the command line asks for, prove it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="*", help="PyTorch versions (default: all)")
    parser.add_argument("--target", nargs="*", help="deployment targets (default: all)")
    parser.add_argument("--tree", type=Path, help="folder of an unpacked PyTorch wheel")
    parser.add_argument("--metal-cpp", type=Path, help="folder with Metal/Metal.hpp")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "macos")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "macos")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    chosen = wanted(options)
    if not chosen:
        raise Failure(f"nothing to build: {options.torch} for macOS {options.target}")
    if not options.tree:
        fetch(chosen)
    for version, targets in chosen.items():
        rows += build_torch(version, targets, options)
    (options.out / "wheels.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + TABLE.format(**HEADINGS) + "sha256")
    for row in rows:
        print(TABLE.format(**row) + row["sha256"])


if __name__ == "__main__":
    main()
