"""Make a local conda channel without any remote one.

A package is made from a folder of files by a small recipe; wheels become packages
by what their metadata says.  packaging/conda/standins.py says what the channel holds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import cpu_torch
import locked
from macos import downloads
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import table, versions
from rattler_build.cli_api import build_recipes

MATRIX = versions()
PROJECT = table("pyproject.toml")
LINUX, MACOS = "linux-64", "osx-arm64"
PYTHON = "{}.{}".format(*sys.version_info)
SITE = Path("lib") / f"python{PYTHON}" / "site-packages"


@dataclass(frozen=True)
class Package:
    """What the channel says of a package."""

    name: str
    version: str
    platform: str  # linux-64, osx-arm64 or noarch
    depends: Sequence[str] = ()
    weak: Sequence[str] = ()  # Run exports.
    strong: Sequence[str] = ()
    noarch: Sequence[str] = ()
    build: str = "{hash}_0"

    def build_string(self, made_from: str) -> str:
        """Return the build string: other inputs or metadata, another string."""
        text = "\0".join([repr(self), made_from])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.build.format(hash=f"h{digest[:7]}")


def abi(python: str) -> str:
    """Return what an extension of a Python depends on."""
    return f"python_abi {python}.* *_cp{python.replace('.', '')}"


def link_tree(source: Path, target: Path, *ignored: str) -> None:
    """Copy a folder by hard links where that is possible."""
    shutil.copytree(
        *(source, target),
        symlinks=True,
        copy_function=cpu_torch.link_or_copy,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(*ignored),
    )


def build_log(output: Path) -> str:
    """Return the end of the newest build script's log, for an error."""
    logs = sorted(output.glob("bld/*/work/*.log"), key=lambda p: p.stat().st_mtime)
    return "\n".join(logs[-1].read_text().splitlines()[-40:]) if logs else "no log"


def build_recipe(recipe: Path, output: Path, **options: Any) -> None:
    """Build one recipe; the script's log is the error if it fails."""
    with warnings.catch_warnings():
        # Its successor solves the host environment for the wrong platform.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            build_recipes(
                *([str(recipe)],),
                output_dir=str(output),
                package_format="conda:1",
                channel_priority="disabled",
                no_include_recipe=True,  # It would tell where it was built.
                **options,
            )
        except Exception as error:
            raise SystemExit(f"{recipe}: {error}\n{build_log(output)}") from error
    shutil.rmtree(output / "bld", ignore_errors=True)


class Channel:
    """A folder of packages; what is there already is not made again."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made if need be."""
        self.folder = folder
        self.wheels = folder.parent / "wheels"
        for name in (LINUX, MACOS, "noarch"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def package(self, package: Package, made_from: str = "") -> Iterator[Path | None]:
        """Yield a folder for a package's files, then add it; None if it is there."""
        build = package.build_string(made_from)
        name = f"{package.name}-{package.version}-{build}.conda"
        if (self.folder / package.platform / name).exists():
            yield None
            return
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as work:
            stage = Path(work, "stage")
            stage.mkdir()
            yield stage
            self._add(package, build, stage)

    def empty(self, package: Package) -> None:
        """Add a package without files: only its metadata matters."""
        with self.package(package):
            pass

    def _add(self, package: Package, build: str, stage: Path) -> None:
        is_noarch = package.platform == "noarch"
        # A noarch Python package can't be installed where there is no Python.
        kind = "python" if "python" in package.depends else "generic"
        exports = {
            kind: list(getattr(package, kind))
            for kind in ("weak", "strong", "noarch")
            if getattr(package, kind)
        }
        recipe = {
            "schema_version": 1,
            "package": {"name": package.name, "version": package.version},
            "build": {
                "string": build,
                "script": {"content": [f"cp -al '{stage}/.' \"$PREFIX/\""]},
                "dynamic_linking": {"binary_relocation": False},
                "prefix_detection": {"ignore": True},
                "python": {"skip_pyc_compilation": ["**/*.py"]},
                **({"noarch": kind} if is_noarch else {}),
            },
            "requirements": {"run": list(package.depends), "run_exports": exports},
        }
        path = stage.parent / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML.
        target = LINUX if is_noarch else package.platform
        build_recipe(
            *(path, self.folder), channel=[], target_platform=target, test="skip"
        )

    def download(self, platform_name: str, requirements: Iterable[str]) -> list[Path]:
        """Download wheels and all they require, as locks/ has them, for this Python."""
        wanted = locked.chosen(requirements)
        text = "".join([PYTHON, *(pin.text() for pin in wanted)])
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.wheels / f"{platform_name}-{key}"
        if not folder.exists():
            platforms = downloads.PLATFORMS if platform_name == MACOS else []
            options = [part for name in platforms for part in ("--platform", name)]
            with tempfile.TemporaryDirectory(dir=self.folder.parent) as work:
                options += ["--python-version", PYTHON, "--only-binary=:all:"]
                locked.pip(sys.executable, "download", wanted, *options, "--dest", work)
                shutil.copytree(work, folder)
        return sorted(folder.glob("*.whl"))

    def add_wheel(self, wheel: Path, platform: str) -> None:
        """Add a wheel; cmake's and ninja's programs go where conda has them."""
        is_pure = wheel.name.endswith("-none-any.whl")
        name, version, needs = described(wheel)
        package = Package(
            *(name, version, "noarch" if is_pure else platform),
            depends=sorted({"python" if is_pure else abi(PYTHON), *needs}),
        )
        with self.package(package, wheel.name) as stage:
            if stage is None:
                return
            site = stage / SITE
            cpu_torch.unpack(wheel, site)
            for scripts in site.glob("*.data/scripts"):
                scripts.rename(stage / "bin")
            if name == "cmake":
                link_tree(site / "cmake" / "data", stage)


def required(requirements: Iterable[str]) -> list[str]:
    """Return the names of what a wheel requires here, of no extra."""
    needs = [Requirement(text) for text in requirements]
    return [
        canonicalize_name(need.name)
        for need in needs
        if need.marker is None or need.marker.evaluate({"extra": ""})
    ]


def on_a_mac(requirements: Iterable[str]) -> list[str]:
    """Return what a wheel for macOS requires, of no extra, without conditions."""
    mac = {"platform_system": "Darwin", "sys_platform": "darwin", "extra": ""}
    mac |= {"platform_machine": "arm64", "os_name": "posix"}
    needs = [Requirement(text) for text in requirements]
    return [
        f"{need.name}{need.specifier}"
        for need in needs
        if need.marker is None or need.marker.evaluate(mac)
    ]


def described(wheel: Path) -> tuple[str, str, list[str]]:
    """Return a wheel's name, its version and what it requires on this Python."""
    with zipfile.ZipFile(wheel) as archive:
        info = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(info).decode())
    names = required(metadata.get_all("Requires-Dist", []))
    return canonicalize_name(metadata["Name"]), metadata["Version"], names
