"""Evaluates the flake for every system, offline, and builds one of its packages.

``tests/packaging/nixpkgs`` stands in for nixpkgs: it knows the attributes that the
flake may use and fails on any other.  Store and state lie in the user's cache,
so neither a daemon nor a right to write to /nix is needed.

Usage: python packaging nix.flake [--build [--twice]]
  without --build: check lock, schema and format, instantiate all, print a table
  with it: build a package and enter its shell, those that have this very Python
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compare
import contents
from macos import build
from project import ROOT, macos_targets, minor, versions

from nix import wheels

STAND_IN = Path("tests", "packaging", "nixpkgs")
INSTALL = (
    "nix.flake: expected the command nix (2.4 or newer) on the path, found none; "
    "install it: apt-get install nix-bin on Debian and Ubuntu"
)
# What the flake reads.
PARTS = (
    *("flake.nix", "flake.lock", "nix", "versions.toml", "pyproject.toml"),
    *("CMakeLists.txt", "LICENSE", "README.md", "cmake", "csrc", "kernels"),
    *("orchard_ops", "packaging", "tests", "tools", "locks"),
    *(".ci", ".github", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "docs"),
    *("recipe", "examples", "mkdocs.yml", "noxfile.py", ".pre-commit-config.yaml"),
)
CONFIG = """\
experimental-features = nix-command flakes
substitute = false
sandbox = false
build-users-group =
flake-registry =
warn-dirty = false
"""
# Output → system → name → the derivation that nix made of it.
TABLE = """
let
  nixpkgs = (import ./tests/packaging/nixpkgs/flake.nix).outputs { } // {
    outPath = ./tests/packaging/nixpkgs;
  };
  flake = (import ./flake.nix).outputs { inherit nixpkgs; self = { }; };
  systems = builtins.attrNames nixpkgs.legacyPackages;
  matrix = builtins.fromTOML (builtins.readFile ./versions.toml);
  overlaid = system:
    let
      # As docs/nix.md tells who uses the overlay.
      config.allowUnfreePredicate = package: nixpkgs.lib.getName package == "torch";
      # Somebody else's, which must stay.
      theirs = _: prev: {
        pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
          (final: _: { theirs = final.filelock; })
        ];
        python311 = prev.python311.override (old: {
          self = prev.python311;
          packageOverrides = final: _: { ours-too = final.theirs; };
        });
      };
      overlays = [ theirs flake.overlays.default ];
      pkgs = import nixpkgs { inherit config overlays system; };
      named = name: nixpkgs.lib.nameValuePair name pkgs.${name};
      names = map (name: "orchard-ops-${name}") (builtins.attrNames matrix.torch);
      kept = pkgs.orchard-ops-torch21.pythonModule.pkgs;
    in builtins.listToAttrs (map named names) // {
      "python3.pkgs.orchard-ops" = pkgs.python3.pkgs.orchard-ops;
      "python311 of another overlay" = kept.ours-too;
    };
  made = value: value.drvPath or
    (builtins.head (builtins.attrNames (builtins.getContext value.program)));
  each = builtins.mapAttrs (_: builtins.mapAttrs (_: made));
in builtins.mapAttrs (_: each) {
  inherit (flake) apps checks devShells packages;
  formatter = builtins.mapAttrs (_: value: { formatter = value; }) flake.formatter;
  overlay = nixpkgs.lib.genAttrs systems overlaid;
}
"""
LONGEST_LINE = 100
PYTHON = "{}.{}".format(*sys.version_info)
# The first commands of "Develop" in docs/nix.md, up to the compiler.
CONFIGURE = """
set -eu
python -c 'import sys, torch; print("PyTorch", torch.__version__, sys.version)'
for program in cmake ninja nox ruff; do command -v $program; done
cmake -S . -B build/nix -G Ninja -DORCHARD_METAL_CPP_DIR="$ORCHARD_METAL_CPP_DIR"
"""
Outputs = dict[str, dict[str, dict[str, str]]]


class FlakeError(Exception):
    """The flake is wrong; says how."""


class Nix:
    """A nix that keeps to one folder and has no network."""

    def __init__(self, folder: Path) -> None:
        """Keep store, state and caches in a folder, made if need be."""
        if shutil.which("nix") is None:
            raise FlakeError(INSTALL)
        folder = folder.resolve()  # The store's path may have no link in it.
        places = {name: folder / name for name in ("store", "state", "log", "conf")}
        for place in places.values():
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            **{f"NIX_{name.upper()}_DIR": str(at) for name, at in places.items()},
            "NIX_CONFIG": CONFIG,
            "NIX_REMOTE": "local",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def run(self, *command: str | Path, show: bool = False) -> str:
        """Run a command of nix; return its output, or raise what it says."""
        done = subprocess.run(
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            what = " ".join(map(str, command))[:100]
            raise FlakeError(f"{what}: status {done.returncode}\n{done.stderr or ''}")
        return done.stdout

    def flake(
        self, *command: str, tree: Path, show: bool = False, then: Sequence[str] = ()
    ) -> str:
        """Run a command of ``nix`` on a tree with the stand-in for nixpkgs."""
        instead = ("--override-input", "nixpkgs", f"path:{tree / STAND_IN}")
        options = (*instead, "--no-write-lock-file", *then)
        return self.run("nix", *command, *options, show=show)


def copy_tree(into: Path) -> Path:
    """Copy what the flake reads into a new folder, to be changed at will."""
    into.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / part, into / part, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, into / part)
    return into.resolve()


def check_lock(nix: Nix, tree: Path) -> str:
    """Return the locked revision; fail if flake.nix asks for something else."""
    command = ("nix", "flake", "metadata", "--json", "--no-update-lock-file")
    metadata = json.loads(nix.run(*command, f"path:{tree}"))
    locked = metadata["locks"]["nodes"]["nixpkgs"]["locked"]
    if not re.fullmatch(r"[0-9a-f]{40}", locked["rev"]):
        raise FlakeError(f"flake.lock: {locked['rev']} is no revision")
    return f"{locked['owner']}/{locked['repo']} {locked['rev']}"


def misformatted(tree: Path) -> list[str]:
    """Return the places that break the rule which stands in for nixfmt.

    The flake's formatter is nixfmt, which ``nix flake check`` holds all to.  No
    package index has it, so here: spaces in steps of two, no trailing ones, lines
    of 100 characters at most, one newline at the end of a file.
    """
    found = []
    for path in sorted(tree.rglob("*.nix")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(tree)
        if not text.endswith("\n") or text.endswith("\n\n"):
            found.append(f"{name}: end it with one newline")
        for number, line in enumerate(text.splitlines(), 1):
            indent = len(line) - len(line.lstrip(" "))
            if "\t" in line or line != line.rstrip() or indent % 2:
                found.append(
                    f"{name}:{number}: indent with pairs of spaces, end with none"
                )
            if len(line) > LONGEST_LINE:
                found.append(f"{name}:{number}: more than {LONGEST_LINE} characters")
    return found


def evaluate(nix: Nix, tree: Path) -> Outputs:
    """Instantiate every output for every system; return their derivations."""
    nix.flake("flake", "check", "--no-build", f"path:{tree}", tree=tree)
    expression = TABLE.replace("./", f"{tree}/")
    command = ("nix", "eval", "--json", "--impure", "--expr", expression)
    outputs: Outputs = json.loads(nix.run(*command))
    for systems in outputs.values():
        for names in systems.values():
            for drv in names.values():
                if not Path(drv).is_file():
                    raise FlakeError(f"{drv} was evaluated, but not made")
    return outputs


def expected_packages(matrix: dict[str, Any], system: str) -> dict[str, str]:
    """Return the names that a system's packages must have → what each builds."""
    found = {}
    for name, entry in matrix["torch"].items():
        base, version = f"orchard-ops-{name}", entry["version"]
        pythons = [p for p in matrix["nix"]["pythons"] if p in entry["pythons"]]
        lowest = matrix["wheels"]["torch"][version]
        plain = (version, pythons[0], lowest)
        found[base] = str(plain)
        for python in pythons:
            key = f"{base}-py{python.replace('.', '')}"
            found[key] = str((version, python, lowest))
        is_darwin = system == wheels.DARWIN
        for target in macos_targets(matrix, version) if is_darwin else ():
            key = f"{base}-macos{target.partition('.')[0]}"
            found[key] = str((version, pythons[0], target))
    found["default"] = found[f"orchard-ops-{matrix['package']['default']}"]
    found["orchard-ops"] = "nixpkgs' own PyTorch"
    return found


def check_packages(outputs: Outputs, matrix: dict[str, Any]) -> None:
    """Fail unless the packages are those of the matrix, and differ as they must."""
    for system, names in outputs["packages"].items():
        wanted = expected_packages(matrix, system)
        if names.keys() != wanted.keys():
            differ = sorted(names.keys() ^ wanted.keys())
            raise FlakeError(f"{system}: the matrix and the flake differ in {differ}")
        pairs = {(wanted[name], drv) for name, drv in names.items()}
        if not len(pairs) == len(set(wanted.values())) == len(set(names.values())):
            raise FlakeError(f"{system}: different packages are one derivation")


def print_table(outputs: Outputs) -> None:
    """Print outputs by system, a cell the start of a derivation's hash."""
    systems = sorted(outputs["packages"])
    row = "{:<46}" + "{:<17}" * len(systems)
    print(row.format("output", *systems))
    for output, by_system in outputs.items():
        for name in sorted(set().union(*by_system.values())):
            drvs = [by_system[system].get(name) for system in systems]
            cells = [Path(drv).name[:8] if drv else "-" for drv in drvs]
            print(row.format(f"{output}.{name}", *cells))
    counts = [sum(len(by[system]) for by in outputs.values()) for system in systems]
    print(row.format("evaluated and instantiated", *map(str, counts)))


def add_wheels(nix: Nix, drv: str) -> None:
    """Download the wheels that a derivation builds on, into the store."""
    for wanted in nix.run("nix-store", "--query", "--requisites", drv).split():
        if not wanted.endswith(".whl.drv"):
            continue
        target = nix.run("nix-store", "--query", "--outputs", wanted).strip()
        if Path(target).exists():
            continue
        name = Path(target).name.partition("-")[2]
        project, version = name.split("-")[:2]
        with tempfile.TemporaryDirectory() as folder:
            print(f"downloading {name}", flush=True)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--no-cache-dir", f"--dest={folder}"]
            # Headers come out of a wheel for Macs on every system.
            tags = name.removesuffix(".whl").split("-")[4]
            command += [f"--platform={tag}" for tag in tags.split(".")]
            subprocess.run([*command, f"{project}==={version}"], check=True)
            file = next(Path(folder).iterdir())
            added = nix.run("nix-store", "--add-fixed", "sha256", file).strip()
        if added != target:
            raise FlakeError(f"{name}: expected {target} by its hash, came {added}")


def with_host(tree: Path) -> str:
    """Let a copy build with this machine's tools; return its system."""
    host = {"shell": "/bin/bash", "path": os.environ["PATH"], "python": sys.executable}
    host["scikit-build-core"] = importlib.metadata.version("scikit-build-core")
    host["zig"] = str(build.zig())
    (tree / STAND_IN / "host.json").write_text(json.dumps(host))
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(
        platform.machine(), platform.machine()
    )
    return f"{machine}-{sys.platform}"


def for_this_python(matrix: dict[str, Any]) -> str:
    """Return the entry of the matrix whose package and shell have this Python."""
    for name, entry in matrix["torch"].items():
        if next(p for p in matrix["nix"]["pythons"] if p in entry["pythons"]) == PYTHON:
            return str(name)
    raise FlakeError(f"no package's favoured Python is {PYTHON}, which runs this")


def realise(nix: Nix, tree: Path, attribute: str) -> Path:
    """Build an output with the host's tools; return its path."""
    drv = nix.flake("eval", "--raw", f"{attribute}.drvPath", tree=tree)
    add_wheels(nix, drv)
    command = ("build", "--no-link", "--print-build-logs", attribute)
    nix.flake(*command, tree=tree, show=True)
    return Path(nix.flake("eval", "--raw", attribute, tree=tree))


def rebuild(nix: Nix, tree: Path, attribute: str, built: Path) -> None:
    """Build an output again; fail, and name the first difference, if it is another."""
    command = ("build", "--no-link", "--rebuild", "--keep-failed", attribute)
    try:
        nix.flake(*command, tree=tree)
    except FlakeError as error:
        again = built.with_name(f"{built.name}.check")
        found = compare.difference(built, again) if again.exists() else None
        raise FlakeError(f"{found or error}") from error
    print(f"built again from nothing, with the same bytes: {built}")


def check_contents(package: Path, torch: str) -> None:
    """List what a built package holds; fail on what is missing or too much."""
    files = contents.read_folder(package)
    # nixpkgs' installer writes none; the stand-in installs by pip.
    files = {n: data for n, data in files.items() if not n.endswith("direct_url.json")}
    print(contents.listing(files), end="")
    # The host's Python, which the stand-in takes, may lie in this tree: its path is
    # that of no build.
    found = contents.problems(files, [torch], ["nix-build-"])
    if found:
        raise FlakeError("\n".join(f"{package}: {sentence}" for sentence in found))


def develop(nix: Nix, tree: Path, attribute: str, *command: str) -> str:
    """Run a command in a development shell; return its output."""
    drv = nix.flake("eval", "--raw", f"{attribute}.drvPath", tree=tree)
    add_wheels(nix, drv)
    return nix.flake("develop", attribute, tree=tree, then=("--command", *command))


def main() -> None:
    """Do what the command line asks for; exit 1 and say what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--build", action="store_true", help="one package and its shell, and no table"
    )
    parser.add_argument("--twice", action="store_true", help="and compare the bytes")
    options = parser.parse_args()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        nix = Nix(Path(base) / "orchard-ops-dev" / "nix")
        with tempfile.TemporaryDirectory() as folder:
            tree = copy_tree(Path(folder, "tree"))
            if options.build:
                matrix = versions()
                system, name = with_host(tree), for_this_python(matrix)
                attribute = f"path:{tree}#packages.{system}.orchard-ops-{name}"
                package = realise(nix, tree, attribute)
                version = matrix["torch"][name]["version"]
                check_contents(package, minor(version))
                if options.twice:
                    rebuild(nix, tree, attribute, package)
                print(f"built {package}")
                shell = f"path:{tree}#devShells.{system}.{name}"
                command = ("bash", "-c", f"cd {tree}; {CONFIGURE}")
                print(develop(nix, tree, shell, *command))
                print(f"nix develop .#{name}: has its tools, and CMake configures")
                return
            if wrong := misformatted(tree):
                raise FlakeError("\n".join(wrong))
            locked = check_lock(nix, tree)
            outputs = evaluate(nix, tree)
        check_packages(outputs, versions())
        print_table(outputs)
        print(f"flake.lock agrees with flake.nix: {locked}")
    except FlakeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
