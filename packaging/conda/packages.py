"""Build, check, solve, install and test the conda packages, without the network.

Packages of every PyTorch are built from recipe/recipe.yaml into dist/conda against a
local channel (packaging/conda/standins.py), for both platforms, unless the command line
asks for less.  Every variant is rendered, and its environment solved, whether it is
built or not.  Then fresh environments are installed for both platforms, and the
recipe's tests run in those of this machine.

Usage: python packaging conda.packages [--torch 2.4 ...] [--target 13.0 ...]
       [--platform linux-64] [--sample]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import contents
import rattler
import rattler.index
import source_date
from project import ROOT, minor
from rattler_build import Package

from conda import environments, standins
from conda.channel import (
    LINUX,
    MACOS,
    MATRIX,
    PROJECT,
    PYTHON,
    SITE,
    Channel,
    build_recipe,
)
from conda.settle import settle
from conda.variants import RECIPE, Variant, rendered

TORCHES = {minor(version): version for version in MATRIX["conda"]["torch"]}
SAMPLE_TORCH = minor(MATRIX["torch"][MATRIX["package"]["default"]]["version"])
BROKEN = "broken/**/*-{build}.conda"
ROW = "{platform:<10} {torch:<6} {for_:<12} {seconds:>7} {bytes:>9} {files:>5}  {name}"


def chosen(options: argparse.Namespace, variants: list[Variant]) -> list[Variant]:
    """Return the variants to build: those asked for that this Python can serve."""
    if options.sample:
        options.torch, options.platform = [SAMPLE_TORCH], [LINUX]
    return [
        variant
        for variant in variants
        if variant.torch in options.torch
        and variant.platform in options.platform
        and (
            variant.keys["python"] == PYTHON
            if variant.platform == LINUX
            else variant.keys["c_stdlib_version"] in options.target
        )
    ]


def pinned(variant: Variant, channel: Channel) -> Path:
    """Write a variant file that says one variant."""
    keys = {k: [v] for k, v in variant.keys.items() if k != "build_platform"}
    path = channel.folder.parent / "variant.yaml"
    path.write_text(json.dumps(keys))  # JSON is YAML.
    return path


def build(
    variant: Variant, channel: Channel, out: Path, can_test: bool = True
) -> tuple[Path, float]:
    """Build one package; the recipe's tests run if this machine can."""
    start = time.monotonic()
    if variant.platform == MACOS:  # A cross build is solved for this macOS.
        os.environ["CONDA_OVERRIDE_OSX"] = variant.keys["c_stdlib_version"]
    else:
        os.environ.pop("CONDA_OVERRIDE_OSX", None)
    try:
        build_recipe(
            *(RECIPE, out),
            channel=[channel.folder.as_uri()],
            variant_config=[str(pinned(variant, channel))],
            target_platform=variant.platform,
            build_platform=LINUX,
            test="native" if can_test and variant.platform == LINUX else "skip",
        )
    except SystemExit as error:
        # What fails its tests is moved aside.
        for package in out.glob(BROKEN.format(build=variant.build)):
            raise SystemExit(failed_test(package, channel)) from error
        raise
    package = next(
        (out / variant.platform).glob(f"orchard-ops-*-{variant.build}.conda")
    )
    settle(package, source_date.epoch())
    # What is indexed and cached is the package as it was.
    asyncio.run(rattler.index.index_fs(out, force=True))
    forget(channel.folder.parent / "cache")
    return package, time.monotonic() - start


def forget(cache: Path) -> None:
    """Drop our packages from a cache, which knows them by their names alone."""
    for old in cache.glob("pkgs/orchard-ops-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def failed_test(package: Path, channel: Channel) -> str:
    """Return what the failing test of a package prints: a build tells nobody."""
    finished = Package.from_file(package)
    for number in range(len(finished.tests)):
        result = finished.run_test(
            number, channel=[channel.folder.as_uri()], channel_priority="disabled"
        )
        if not result.success:
            return "\n".join([f"{package.name}: a test fails", *result.output])
    return f"{package.name}: a test failed, and passes when it is run again"


def check(variant: Variant, package: Path, folders: list[str]) -> int:
    """Fail if a package holds too much or too little; return its file count."""
    files = contents.read_conda(package)
    package.with_suffix(".txt").write_text(contents.listing(files))
    found = contents.problems(files, [variant.torch], folders)
    index = json.loads(files["info/index.json"])
    depends, is_macos = " ".join(index["depends"]), variant.platform == MACOS
    if f",<{environments.below_next(variant)}" not in depends:
        found.append(f"nothing pins PyTorch {variant.torch}: {index['depends']}")
    found += [
        f"no {name} in info/licenses"
        for name in ("LICENSE", "metal-cpp-LICENSE.txt")[: 1 + is_macos]
        if f"info/licenses/{name}" not in files
    ]
    info = f"orchard_ops-{index['version']}.dist-info/METADATA"
    if info not in files:
        found.append(f"no {info}: Python sees another version than conda")
    pythons = [need for need in index["depends"] if need.startswith("python >=")]
    if is_macos and pythons != [f"python {PROJECT['project']['requires-python']}"]:
        found.append(f"for which Pythons? {index['depends']}")
    if b"prefix_placeholder" in files["info/paths.json"] and is_macos:
        found.append("a binary holds the build prefix: only a Mac could install it")
    if is_macos:
        found += [
            f"{name} is for one Python"
            for name in files
            if name.startswith(contents.SIMULATOR)
        ]
    if found:
        raise SystemExit("\n".join(f"{package.name}: {text}" for text in found))
    return len(files)


def conda_build(variants: list[Variant], channel: Channel) -> None:
    """Let a real conda build the variants of this platform, if there is one."""
    conda = shutil.which("conda")
    if conda is None:
        print("no conda on this machine: conda build was not tried", flush=True)
        return
    out = channel.folder.parent / "conda-build"
    command = [conda, "build", str(RECIPE.parent), "--override-channels"]
    command += ["-c", channel.folder.as_uri(), "--output-folder", str(out)]
    for variant in variants:
        if variant.platform == LINUX:
            subprocess.run([*command, "-m", pinned(variant, channel)], check=True)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    targets, platforms = MATRIX["macos"]["deployment_targets"], [LINUX, MACOS]
    add("--torch", nargs="+", default=list(TORCHES), choices=list(TORCHES))
    add("--platform", nargs="+", default=platforms, choices=platforms)
    add("--target", nargs="+", default=targets, choices=targets, help="of macOS")
    add("--sample", action="store_true", help="one PyTorch on Linux, as CI does")
    add("--build-only", action="store_true", help="no tests, no environments")
    add("--work", type=Path, default=ROOT / "build" / "conda")
    add("--out", type=Path, default=ROOT / "dist" / "conda")
    return parser.parse_args(arguments)


def main() -> None:
    """Do what the command line asks for; print a table of the packages."""
    options = parsed()
    if "posix_local" in sysconfig.get_scheme_names():
        raise SystemExit(
            f"expected a Python that keeps packages in {SITE}, but {sys.base_prefix} "
            "is Debian's, which looks elsewhere: start nox from one of python.org, "
            "pyenv or conda"
        )
    work, out = options.work.resolve(), options.out.resolve()
    os.environ["SOURCE_DATE_EPOCH"] = str(source_date.epoch())
    os.environ["RATTLER_CACHE_DIR"] = str(work / "cache")
    variants = rendered(LINUX) + rendered(MACOS)
    print(f"rendered {len(variants)} variants", flush=True)
    picked = chosen(options, variants)
    if not picked:
        raise SystemExit(f"no variant for Python {PYTHON} is asked for")
    channel = Channel(work / "channel")
    wanted = {(v.platform, TORCHES[v.torch]) for v in picked}
    standins.add_all(channel, wanted)
    # Before hours of building; a failing build would not tell what is missing.
    environments.solve_all(picked, [channel.folder])
    # An old package of the same name would be taken from the cache.
    shutil.rmtree(out, ignore_errors=True)
    forget(work / "cache")
    folders = [str(p) for p in (ROOT, work, out, Path.home(), sys.base_prefix)]
    rows = []
    for variant in picked:
        package, seconds = build(variant, channel, out, not options.build_only)
        rows.append(
            {
                "platform": variant.platform,
                "torch": variant.torch,
                "for_": variant.for_,
                "seconds": round(seconds),
                "bytes": package.stat().st_size,
                "files": check(variant, package, folders),
                "name": package.name,
            }
        )
        print(ROW.format(**rows[-1]), flush=True)
    (out / "packages.json").write_text(json.dumps(rows, indent=1) + "\n")
    if options.build_only:
        return
    environments.prove(picked, variants, channel, out)
    conda_build(picked, channel)
    print("\n" + ROW.format(**{name: name for name in rows[0]}))
    for row in rows:
        print(ROW.format(**row))


if __name__ == "__main__":
    main()
