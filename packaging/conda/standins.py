"""What the local conda channel holds, so that the recipe builds and runs from it.

This Python, PyTorch from its wheels (tools/cpu_torch.py, packaging/macos/downloads.py),
wheels of the other requirements, and stand-ins for conda-forge's compilers that
call this machine's gcc, and zig for macOS.  It serves tests only: do not publish
it, and give no user its address.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cpu_torch
import locked
from macos import downloads
from project import minor

from conda.channel import (
    LINUX,
    MACOS,
    MATRIX,
    PROJECT,
    PYTHON,
    SITE,
    Channel,
    Package,
    abi,
    link_tree,
    on_a_mac,
    required,
)
from nix import wheels

# Parts of an installed Python that no build or test of ours opens.
UNUSED = ("site-packages", "test", "idlelib", "tkinter", "config-*", "turtledemo")
STUB = "#!/bin/sh\necho 'This Python holds headers only.' >&2\nexit 1\n"
ZIG = MATRIX["package"]["ziglang"]
EXTRAS = PROJECT["project"]["optional-dependencies"]


def write(path: Path, text: str) -> None:
    """Write a file into a new folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def abi_package(python: str) -> Package:
    """Describe what ties extensions to a Python."""
    digits = python.replace(".", "")
    return Package("python_abi", python, "noarch", build=f"0_cp{digits}")


def python_package(version: str, name: str) -> Package:
    """Describe a Python; what is built with it is pinned to its minor."""
    return Package(
        *("python", version, name),
        weak=[abi(minor(version))],
        noarch=["python"],
        build="{hash}_0_cpython",
    )


def add_python(channel: Channel) -> None:
    """Add this Python for Linux, and its headers for macOS."""
    channel.empty(abi_package(PYTHON))
    base = Path(sys.base_prefix)
    for name in (LINUX, MACOS):
        package = python_package(platform.python_version(), name)
        with channel.package(package, str(base)) as stage:
            if stage is None:
                continue
            headers = Path("include") / f"python{PYTHON}"
            link_tree(base / headers, stage / headers)
            (stage / "bin").mkdir()
            if name == LINUX:
                copy_interpreter(base, stage)
            else:
                write(stage / "bin" / f"python{PYTHON}", STUB)
            for alias in ("python", "python3"):
                (stage / "bin" / alias).symlink_to(f"python{PYTHON}")


def copy_interpreter(base: Path, stage: Path) -> None:
    """Copy an installed Python so that it runs where it will lie."""
    link_tree(base / SITE.parent, stage / SITE.parent, *UNUSED)
    program = stage / "bin" / f"python{PYTHON}"
    shutil.copy2(base / "bin" / program.name, program)  # No link: it is edited.
    libraries = list((base / "lib").glob("libpython*.so*"))
    for library in libraries:
        shutil.copy2(library, stage / "lib", follow_symlinks=False)
    if libraries:
        edit = ["patchelf", "--set-rpath", "$ORIGIN/../lib", str(program)]
        subprocess.run(edit, check=True)


def activation(channel: Channel, package: Package, text: str) -> None:
    """Add a package that does no more than set variables for a build."""
    with channel.package(package, text) as stage:
        if stage is not None:
            write(stage / "etc" / "conda" / "activate.d" / f"{package.name}.sh", text)


def add_compilers(channel: Channel) -> None:
    """Add what ``compiler("cxx")`` and ``stdlib("c")`` of the recipe stand for."""
    glibc = platform.libc_ver()[1]
    channel.empty(
        Package(
            *("sysroot_linux-64", glibc, LINUX),
            strong=[f"__glibc >={glibc},<3.0.a0"],
        )
    )
    activation(
        *(channel, Package("gxx_linux-64", "12.0", LINUX)),
        "export CC=$(command -v gcc) CXX=$(command -v g++)\n",
    )
    channel.empty(Package("clangxx_osx-arm64", "19.0", LINUX))
    channel.empty(Package("cross-python_osx-arm64", PYTHON, LINUX))
    for target in MATRIX["macos"]["deployment_targets"]:
        name = "macosx_deployment_target_osx-arm64"
        activation(
            *(channel, Package(name, target, LINUX, strong=[f"__osx >={target}"])),
            f"export MACOSX_DEPLOYMENT_TARGET={target}\n",
        )


def add_tools(channel: Channel) -> None:
    """Add what builds and runs the package on every PyTorch."""
    build = [n for n in PROJECT["build-system"]["requires"] if ";" not in n]
    build.append("pip")
    programs = ["cmake>=3.24", "ninja>=1.10", f"ziglang=={ZIG}"]
    for wheel in channel.download(LINUX, [*build, *programs, *EXTRAS["cli"]]):
        if wheel.name.startswith("ziglang-"):
            add_zig(channel, wheel)
        else:
            channel.add_wheel(wheel, LINUX)


def add_macos_tools(channel: Channel) -> None:
    """Add what only the macOS packages are built and run with."""
    for wheel in channel.download(MACOS, EXTRAS["cli"]):
        channel.add_wheel(wheel, MACOS)
    headers = downloads.metal_cpp(PYTHON)
    with channel.package(Package("metal-cpp", "0", "noarch"), str(headers)) as stage:
        if stage is not None:
            link_tree(headers, stage / "include" / "metal-cpp")


def add_zig(channel: Channel, wheel: Path) -> None:
    """Add zig as conda-forge has it: a program, and no Python module."""
    with channel.package(Package("zig", ZIG, LINUX), wheel.name) as stage:
        if stage is not None:
            cpu_torch.unpack(wheel, stage / "share")
            (stage / "bin").mkdir()
            (stage / "bin" / "zig").symlink_to("../share/ziglang/zig")


def torch_package(
    version: str, name: str, needs: list[str], python: str = PYTHON
) -> Package:
    """Describe a PyTorch; what is built against it is pinned to its minor."""
    major, minor, _ = version.split(".")
    pin = f"pytorch >={version},<{major}.{int(minor) + 1}.0a0"
    # PyPI's Linux builds do not mix with conda-forge's (another std::string).
    build = "pypi_{hash}_0"
    if name == LINUX:
        pin += " pypi_*"
    depends = [abi(python), *needs]
    return Package("pytorch", version, name, depends, weak=[pin], build=build)


def is_split(version: str) -> bool:
    """Say whether conda-forge keeps a PyTorch's headers for all environments.

    Its feedstock links none back into torch/include since January 2026, when
    PyTorch was 2.9 (commit e6c7f844 of pytorch-cpu-feedstock).
    """
    return tuple(map(int, version.split(".")[:2])) > (2, 9)


def split(stage: Path) -> None:
    """Move a PyTorch's headers and libraries to where conda-forge has them."""
    torch = stage / SITE / "torch"
    (torch / "include").rename(stage / "include")
    for library in (torch / "lib").glob("*.dylib"):
        library.rename(stage / "lib" / library.name)
        library.symlink_to(os.path.relpath(stage / "lib" / library.name, torch / "lib"))


def numpy_for(version: str) -> str:
    """Return the NumPy that a PyTorch works with."""
    entries = MATRIX["torch"].values()
    bounds = {minor(entry["version"]): str(entry["numpy"]) for entry in entries}
    return bounds.get(minor(version), "numpy")


def torch_files(platform_name: str, version: str) -> tuple[Path, list[str]]:
    """Return a PyTorch's files for a platform, and what it requires."""
    if platform_name == MACOS:
        # Its metadata alone: the Linux wheel is twenty times as large.
        wheel = wheels.Wheel("torch", version, wheels.DARWIN, PYTHON)
        told = wheels.report(wheel)["metadata"]["requires_dist"]
        return downloads.torch_tree(version, PYTHON), on_a_mac(told)
    tag = sys.implementation.cache_tag + "-linux-x86_64"
    tree = cpu_torch.cached_tree(version, sys.executable, tag, [numpy_for(version)])
    return tree, json.loads((tree / "needs.json").read_text())


def add_torch(channel: Channel, platform_name: str, version: str) -> None:
    """Add a PyTorch for a platform."""
    numpy = numpy_for(version)
    tree, needs = torch_files(platform_name, version)
    for wheel in channel.download(platform_name, [*locked.TORCH_NEEDS, numpy]):
        channel.add_wheel(wheel, platform_name)
    names = required(needs)
    names.append(numpy.replace("<", " <"))  # As conda writes it.
    package = torch_package(version, platform_name, names)
    with channel.package(package, tree.name) as stage:
        if stage is not None:
            link_tree(tree, stage / SITE, "needs.json")
            if platform_name == MACOS and is_split(version):
                split(stage)


def add_all(channel: Channel, wanted: set[tuple[str, str]]) -> None:
    """Fill a channel for the PyTorches (platform, version) asked for."""
    print("filling the local channel", flush=True)
    add_python(channel)
    add_compilers(channel)
    add_tools(channel)
    if MACOS in {platform_name for platform_name, _ in wanted}:
        add_macos_tools(channel)
    for platform_name, version in sorted(wanted):
        print(f"packing PyTorch {version} for {platform_name}", flush=True)
        add_torch(channel, platform_name, version)
