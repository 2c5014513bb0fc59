"""Solve and install the finished conda packages into fresh environments."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import rattler
from macos import macho
from project import ROOT, default_python, minor
from rattler.exceptions import SolverError

from conda import standins
from conda.channel import LINUX, MACOS, MATRIX, PYTHON, SITE, Channel, Package
from conda.variants import Variant

NEWEST_MACOS = "26.0"
TOO_OLD_MACOS = "11.7"


class RefusedError(Exception):
    """The solver's reason why there is no such environment."""


def virtual_packages(platform: str, macos: str) -> list[rattler.GenericVirtualPackage]:
    """Return what the solver may assume of a machine."""
    if platform == LINUX:
        return [found.into_generic() for found in rattler.VirtualPackage.detect()]
    return [
        rattler.GenericVirtualPackage(
            rattler.PackageName(name),
            rattler.Version(version),
            rattler.BuildString("0"),
        )
        for name, version in (("__unix", "0"), ("__osx", macos))
    ]


def solve(
    folders: Sequence[Path],
    specs: Sequence[str],
    platform: str,
    macos: str = NEWEST_MACOS,
) -> list[rattler.RepoDataRecord]:
    """Return the packages of an environment; RefusedError if there is none."""
    try:
        return asyncio.run(
            rattler.solve(
                [rattler.Channel(folder.as_uri()) for folder in folders],
                list(specs),
                platforms=[platform, "noarch"],
                virtual_packages=virtual_packages(platform, macos),
                channel_priority=rattler.ChannelPriority.Disabled,
            )
        )
    except SolverError as error:
        raise RefusedError(str(error)) from error


def metadata_channel(folder: Path) -> Channel:
    """Return a channel of every Python and PyTorch, no files: enough for a solver."""
    channel = Channel(folder / "solving")
    channel.empty(Package("metal-cpp", "0", "noarch"))
    for python in MATRIX["package"]["python"]:
        channel.empty(standins.abi_package(python))
    for platform in (LINUX, MACOS):
        channel.empty(Package("numpy", "1.26.4", platform))
        for python in MATRIX["package"]["python"]:
            channel.empty(standins.python_package(f"{python}.0", platform))
        for version, pythons in MATRIX["conda"]["torch"].items():
            needs = [standins.numpy_for(version).replace("<", " <")]
            for python in pythons if platform == LINUX else [default_python()]:
                channel.empty(standins.torch_package(version, platform, needs, python))
    return channel


def solve_all(variants: list[Variant], folders: Sequence[Path]) -> None:
    """Solve the environment that each variant is built in."""
    for variant in variants:
        target = variant.keys.get("c_stdlib_version", NEWEST_MACOS)
        try:
            records = solve(folders, variant.host, variant.platform, target)
        except RefusedError as reason:
            raise SystemExit(f"{variant.build} can't be built: {reason}") from reason
        versions = {r.name.normalized: str(r.version) for r in records}
        for name, wanted in (
            ("pytorch", variant.torch),
            ("python", variant.keys["python"]),
        ):
            if not versions[name].startswith(wanted + "."):
                raise SystemExit(f"{variant}: built with {name} {versions[name]}")


def install(
    variant: Variant, folders: Sequence[Path], prefix: Path
) -> list[rattler.RepoDataRecord]:
    """Install a package and its PyTorch into a fresh environment."""
    shutil.rmtree(prefix, ignore_errors=True)
    specs = [f"orchard-ops * {variant.build}", f"python {PYTHON}.*"]
    records = solve(folders, specs, variant.platform)
    version = next(str(r.version) for r in records if r.name.normalized == "pytorch")
    if not version.startswith(variant.torch + "."):
        raise SystemExit(f"{variant.build} was paired with PyTorch {version}")
    where = rattler.Platform(variant.platform)
    asyncio.run(rattler.install(records, prefix, platform=where))
    return records


def run_tests(prefix: Path) -> None:
    """Run the recipe's tests in an environment of this machine."""
    program = prefix / "bin"
    done = subprocess.run(
        [program / "orchard-ops", "doctor", "--json"], text=True, capture_output=True
    )
    findings = json.loads(done.stdout)
    if done.returncode or not findings["ok"]:
        raise SystemExit(f"orchard-ops doctor: {done.stdout}{done.stderr}")
    where = {
        Path(path).is_relative_to(prefix) for path in findings["libraries"].values()
    }
    if where != {True}:
        raise SystemExit(f"doctor looked outside {prefix}: {findings['libraries']}")
    print(
        f"doctor: ok on {findings['device']}, PyTorch {findings['torch']}", flush=True
    )
    smoke = [program / "python", ROOT / "recipe" / "smoke.py"]
    subprocess.run(smoke, check=True, cwd=prefix)


def check_macos_files(prefix: Path) -> None:
    """Fail unless an environment holds arm64 Mach-O libraries, PyTorch's too."""
    site = prefix / SITE
    (operators,) = (site / "orchard_ops").glob("_C.torch*.so")
    for path in (operators, site / "torch" / "lib" / "libc10.dylib"):
        macho.read(path)


def check_old_macos(variant: Variant, folders: Sequence[Path]) -> None:
    """Fail unless the solver refuses a package on a macOS that is too old."""
    try:
        solve(folders, [f"orchard-ops * {variant.build}"], MACOS, TOO_OLD_MACOS)
    except RefusedError as reason:
        if "__osx" not in str(reason):
            raise SystemExit(f"refused for another reason: {reason}") from reason
        return
    raise SystemExit(f"{variant.build} was let on macOS {TOO_OLD_MACOS}")


def below_next(variant: Variant) -> str:
    """Return the version that the PyTorch of a package must be below."""
    major, number = variant.torch.split(".")
    return f"{major}.{int(number) + 1}.0a0"


def check_refusal(variant: Variant, folders: Sequence[Path]) -> str:
    """Ask for a package beside every other PyTorch; return the solver's reason."""
    reason = ""
    for other in map(minor, MATRIX["conda"]["torch"]):
        if other == variant.torch:
            continue
        specs = [f"orchard-ops * {variant.build}", f"pytorch {other}.*"]
        try:
            solve(folders, specs, variant.platform)
        except RefusedError as refused:
            reason = str(refused)
            if variant.build not in reason or f",<{below_next(variant)}" not in reason:
                raise SystemExit(f"an unreadable reason: {reason}") from refused
        else:
            raise SystemExit(f"{variant.build} was paired with PyTorch {other}")
    return reason


def prove(
    built: list[Variant], variants: list[Variant], channel: Channel, out: Path
) -> None:
    """Solve every variant; install, check and test those that were built."""
    work = channel.folder.parent
    solving = metadata_channel(work).folder
    solve_all(variants, [solving, channel.folder])
    print(f"solved the build environments of all {len(variants)} variants", flush=True)
    prefix = work / "environment"
    for variant in built:
        print(f"\n{variant.platform}: {variant.build}", flush=True)
        records = install(variant, [out, channel.folder], prefix)
        print(f"installed {len(records)} packages into a fresh environment", flush=True)
        if variant.platform == LINUX:
            run_tests(prefix)
        else:
            check_macos_files(prefix)
            check_old_macos(variant, [out, channel.folder])
        reason = check_refusal(variant, [out, channel.folder, solving])
    print(f"\nOther PyTorch minors are refused, for example:\n{reason}", flush=True)
    shutil.rmtree(prefix)
