"""Write what is submitted to conda-forge and nixpkgs, out of recipe/ and nix/.

The recipe and the package are those that are tested here; what a channel wants
otherwise (a released archive with its hash, its own PyTorch, a maintainer) is put in
their place.  docs/releasing.md has the steps.

Usage: python packaging release.submission [--sdist FILE] [--maintainer NAME ...]
  --archives URL: the folder where the released source distribution can be had
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
from pathlib import Path
from typing import Any

from project import ROOT, Failure, digest, table, versions

UNKNOWN = "ADDRESS"  # for what only a released, published project has
FORGE = Path("conda-forge", "recipes", "orchard-ops")
NIXPKGS = Path("nixpkgs/pkgs/development/python-modules/orchard-ops/default.nix")
# conda-forge's Macs cross-compile; its pinning names one PyTorch, its migrator the
# next, so the feedstock pins none.
FEEDSTOCK = {
    "build_platform": {"osx_arm64": "linux_64"},
    "conda_build_tool": "rattler-build",
    "conda_forge_output_validation": True,
    "github": {"branch_name": "main", "tooling_branch_name": "main"},
    "test": "native_and_emulated",
}


def homepage(project: dict[str, Any]) -> str:
    """Return the address that a channel shows."""
    urls: dict[str, str] = project.get("urls", {})
    return urls.get("Homepage", UNKNOWN)


def replaced(text: str, old: str, new: str) -> str:
    """Replace what stands once in a text.

    Raises:
        Failure: it stands there never or often, so that the text has changed.
    """
    if text.count(old) != 1:
        raise Failure(f"expected one {old!r}, found {text.count(old)}: change this too")
    return text.replace(old, new)


def recipe(root: Path, sha256: str, archives: str, maintainers: list[str]) -> str:
    """Return the recipe as conda-forge gets it."""
    project = table("pyproject.toml", root)["project"]
    headers = versions()["macos"]["metal_cpp"]
    text = (root / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    text = text[text.index("schema_version") :]
    source = (
        f"  - url: {archives}/orchard_ops-${{{{ version }}}}.tar.gz\n"
        f"    sha256: {sha256}\n"
        "  - if: osx\n"
        "    then:\n"
        f"      url: {headers['url']}\n"
        f"      sha256: {headers['sha256']}\n"
        "      target_directory: metal-cpp\n"
    )
    text = replaced(text, "  path: ..\n", source)
    # CPU builds alone: the operators hold no CUDA code.
    linux = "    - pytorch\n    - if: linux\n      then: pytorch * [build=cpu*]\n"
    headers_package = "    - pytorch\n    - if: osx\n      then: metal-cpp\n"
    text = replaced(text, headers_package, linux)
    cross = "        - cross-python_${{ target_platform }}\n"
    text = replaced(text, cross, f"{cross}        - pytorch\n")
    # rattler-build reads no recipe with a homepage that is no address.
    known = homepage(project) != UNKNOWN
    about = f"  homepage: {homepage(project)}\n" if known else ""
    if repository := project.get("urls", {}).get("Repository"):
        about += f"  repository: {repository}\n"
    text = replaced(text, "about:\n", f"about:\n{about}")
    named = "".join(f"    - {name}\n" for name in maintainers)
    return f"{text}\nextra:\n  recipe-maintainers:\n{named}" if named else text


def write_forge(
    root: Path, out: Path, sha256: str, archives: str, maintainers: list[str]
) -> None:
    """Write the folder of a pull request to conda-forge/staged-recipes."""
    folder = out / FORGE
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe(root, sha256, archives, maintainers))
    for name in ("build.sh", "smoke.py"):
        shutil.copy(root / "recipe" / name, folder)
    # What the PyTorch of the pinning, and the migrator's next one, need.
    target = versions()["wheels"]["torch"]["2.13.0"]
    lines = [
        f'{name}:  # [osx]\n  - "{target}"  # [osx]\n'
        for name in ("c_stdlib_version", "MACOSX_SDK_VERSION")
    ]
    (folder / "conda_build_config.yaml").write_text("".join(lines))
    (folder / "conda-forge.yml").write_text(json.dumps(FEEDSTOCK, indent=2) + "\n")


def expression(root: Path, sha256: str, maintainers: list[str]) -> str:
    """Return the package as nixpkgs gets it."""
    project = table("pyproject.toml", root)["project"]
    headers = versions()["macos"]["metal_cpp"]
    text = (root / "nix" / "package.nix").read_text(encoding="utf-8")
    text = text[text.index("{") :]
    for name in ("appleSdks", "deploymentTarget", "metal-cpp", "source", "version"):
        text = replaced(text, f"  {name},\n", "")
    fetched = (
        f'  metal-cpp = fetchzip {{\n    url = "{headers["url"]}";\n'
        f'    hash = "{headers["nix"]}";\n  }};\n'
    )
    source = (
        '  src = fetchPypi {\n    pname = "orchard_ops";\n    inherit (finalAttrs) '
        f'version;\n    hash = "{sri(sha256)}";\n  }};\n'
    )
    about = (
        f'    homepage = "{homepage(project)}";\n'
        f"    maintainers = with lib.maintainers; [ {' '.join(maintainers)} ];\n"
    )
    described = '    description = "Flash attention for PyTorch on Apple GPUs'
    extras = "  optional-dependencies = rec {\n"
    zig = 'export ORCHARD_SIM_CXX="${lib.getExe zig_0_14} c++"'
    for old, new in {
        "  lib,\n": "  lib,\n  apple-sdk_14,\n",
        "  expecttest,\n": "  expecttest,\n  fetchPypi,\n  fetchzip,\n",
        "  ziglang,\n": "  zig_0_14,\n",
        # Its Python module is of another version.
        "      ziglang\n": "",
        "    export HOME=$(mktemp -d)\n": f"    export HOME=$(mktemp -d)\n    {zig}\n",
        extras: fetched + extras,
        "  inherit version;\n": f'  version = "{project["version"]}";\n',
        "  src = source;\n": source,
        "buildPythonPackage {\n": "buildPythonPackage (finalAttrs: {\n",
        'appleSdks."apple-sdk_${lib.versions.major deploymentTarget}"': "apple-sdk_14",
        "darwinMinVersionHook deploymentTarget": 'darwinMinVersionHook "14.0"',
        "../recipe/smoke.py": '"$NIX_BUILD_TOP/$sourceRoot/recipe/smoke.py"',
        described: about + described,
    }.items():
        text = replaced(text, old, new)
    return text.rstrip("\n")[:-1] + "})\n"


def sri(sha256: str) -> str:
    """Return a SHA-256 as Nix writes it."""
    return f"sha256-{base64.b64encode(bytes.fromhex(sha256)).decode()}"


def write(
    root: Path, sdist: Path, out: Path, archives: str, maintainers: list[str]
) -> None:
    """Write both submissions for a released source distribution."""
    sha256 = digest(sdist)
    shutil.rmtree(out, ignore_errors=True)
    write_forge(root, out, sha256, archives, maintainers)
    package = out / NIXPKGS
    package.parent.mkdir(parents=True)
    package.write_text(expression(root, sha256, maintainers), encoding="utf-8")


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sdist", type=Path, help="default: that of dist/")
    parser.add_argument("--archives", default=UNKNOWN, help="a folder's address")
    parser.add_argument("--maintainer", nargs="*", default=[], help="on GitHub")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "submission")
    options = parser.parse_args()
    sdist = options.sdist or next((ROOT / "dist").glob("*.tar.gz"))
    write(ROOT, sdist, options.out, options.archives, options.maintainer)
    print(options.out)


if __name__ == "__main__":
    main()
