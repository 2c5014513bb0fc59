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
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import macho
import macos_checks as checks
import macos_torch
import tomllib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "cmake"))  # Shared with the build that pip runs.
import find_torch  # noqa: E402
import wheel_metadata  # noqa: E402

MATRIX: dict[str, Any] = tomllib.loads((ROOT / "versions.toml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEVICE, OPERATORS = "liborchard_device.dylib", "_C.so"
FRAMEWORKS = ("Foundation", "Metal")
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
TABLE = "{torch:>7} {python:>7} {target:>6} {bytes:>8} {symbols:>7} {messages:>8}  "
WITNESS = "2.4.1"  # Its libraries load on macOS 11: all they need is there.
EPOCH = (1980, 1, 1, 0, 0, 0)  # The oldest that a zip file can say.


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
            f"-isystem{ROOT / 'tools' / 'macos_sdk'}",
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


def sources(*patterns: str) -> list[Path]:
    """Return the source files that match, in a fixed order."""
    return sorted(path for p in patterns for path in ROOT.glob(p))


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
    builder: Builder,
    target: str,
    owners: checks.Owners,
    binaries: list[Path],
    objects: list[Path],
) -> tuple[int, list[str]]:
    """Prove binaries; return the number of symbols and the messages they send."""
    folders = [*builder.places, str(Path.home())]
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
    problems += checks.unfit_messages(used, builder.tables, target)
    if problems:
        raise Failure("\n".join(problems))
    return count, sorted(builder.tables[name] for name in used)


def metadata(version: str) -> str:
    """Return the wheel's METADATA."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PROJECT['name']}",
        f"Version: {wheel_version(version)}",
        f"Summary: {PROJECT['description']}",
        f"License: {PROJECT['license']}",
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Requires-Dist: {need}" for need in wheel_metadata.requirements(version)),
    ]
    for extra, needs in PROJECT["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need}; extra == "{extra}"' for need in needs]
    lines += [f"Classifier: {name}" for name in PROJECT["classifiers"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head = "\n".join(lines)
    return f"{head}\nDescription-Content-Type: text/markdown\n\n{readme}"


def wheel_version(version: str) -> str:
    """Return our version with the PyTorch that the wheel is for."""
    major, minor, _ = version.split(".")
    return f"{PROJECT['version']}+torch{major}.{minor}"


def tag(target: str) -> str:
    """Return the wheel's tag: any Python 3, one macOS."""
    return f"py3-none-macosx_{target.replace('.', '_')}_arm64"


def wheel_files(version: str, target: str, binaries: list[Path]) -> dict[str, bytes]:
    """Return every file of a wheel but its RECORD."""
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in sources("orchard_ops/**/*.py", "orchard_ops/py.typed")
    }
    files.update({f"orchard_ops/{path.name}": path.read_bytes() for path in binaries})
    template = (ROOT / "cmake" / "build_info.py.in").read_text()
    built = template.replace("@PROJECT_VERSION@", PROJECT["version"])
    built = built.replace("@ORCHARD_TORCH_VERSION@", version)
    files["orchard_ops/_build_info.py"] = built.encode()
    info = f"orchard_ops-{wheel_version(version)}.dist-info"
    scripts = "".join(f"{n} = {at}\n" for n, at in PROJECT["scripts"].items())
    files[f"{info}/METADATA"] = metadata(version).encode()
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: orchard-ops macos_wheels\n"
        f"Root-Is-Purelib: false\nTag: {tag(target)}\n"
    ).encode()
    return files


def pack(version: str, target: str, binaries: list[Path], into: Path) -> Path:
    """Write a wheel whose bytes depend on its files alone."""
    files = wheel_files(version, target, binaries)
    info = next(name for name in files if name.endswith("/WHEEL")).rpartition("/")[0]
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(data)}\n")
    files[f"{info}/RECORD"] = ("".join(rows) + f"{info}/RECORD,,\n").encode()
    out = into / f"orchard_ops-{wheel_version(version)}-{tag(target)}.whl"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            is_binary = name.endswith((".so", ".dylib"))
            entry.external_attr = (0o100755 if is_binary else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return out


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
        count, sent = check(
            builder, target, owners, [library, module], [*device, *operators]
        )
        wheel = pack(version, target, [library, module], into)
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
    for version, targets in wanted(options).items():
        rows += build_torch(version, targets, options)
    if not rows:
        raise Failure(f"nothing to build: {options.torch} for macOS {options.target}")
    (options.out / "wheels.json").write_text(json.dumps(rows, indent=1) + "\n")
    names = ("torch", "python", "target", "bytes", "symbols", "messages")
    print("\n" + TABLE.format(**{name: name for name in names}) + "sha256")
    for row in rows:
        print(TABLE.format(**row) + row["sha256"])


if __name__ == "__main__":
    main()
