"""Write the conda recipe's variant files from versions.toml.

Each is plain (no selectors, no conditions), because `conda build` and
rattler-build read only that alike.  tools/check_versions.py fails when a file is
not what this writes.

Usage: python packaging conda.variants
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from project import ROOT, default_python, macos_targets, minor, versions

RECIPE = ROOT / "recipe" / "recipe.yaml"
HEAD = "# Written by packaging/conda/variants.py from versions.toml.\n"
Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Variant:
    """One package that the recipe describes."""

    platform: str
    torch: str
    keys: dict[str, str]
    build: str  # The build string, which names the file.
    host: list[str]  # What it is built with.

    @property
    def for_(self) -> str:
        """Return what the package is for besides a PyTorch."""
        target = self.keys.get("c_stdlib_version")
        return f"macOS {target}" if target else f"Python {self.keys['python']}"


def rendered(platform: str, built_on: str = "linux-64") -> list[Variant]:
    """Render the recipe with a platform's variant file."""
    from rattler_build import (  # Writing the files needs no rattler-build.
        PlatformConfig,
        RenderConfig,
        Stage0Recipe,
        VariantConfig,
    )

    config = VariantConfig.from_file(str(RECIPE.with_name(f"variants-{platform}.yaml")))
    where = PlatformConfig(
        target_platform=platform, build_platform=built_on, host_platform=platform
    )
    variants = []
    for result in Stage0Recipe.from_file(RECIPE).render(
        config, RenderConfig(platform=where)
    ):
        keys = {name: str(value) for name, value in result.variant.items()}
        recipe = result.recipe.to_dict()
        # Rendering leaves out what the variants pin.
        host = [
            f"{need} {keys[need]}.*" if need in keys else need
            for need in recipe["requirements"]["host"]
        ]
        build = recipe["build"]["string"]
        variants.append(Variant(platform, keys["pytorch"], keys, build, host))
    return variants


def linux(matrix: dict[str, Any]) -> dict[str, list[str]]:
    """Return PyTorch by Python: the simulator is an extension of one Python."""
    rows = [
        (minor(version), python)
        for version, pythons in matrix["conda"]["torch"].items()
        for python in pythons
    ]
    return columns(("pytorch", "python"), rows)


def macos(matrix: dict[str, Any]) -> dict[str, list[str]]:
    """Return each PyTorch with the oldest macOS it runs on, whose build serves all.

    One package serves every Python, too.
    """
    # Which Python builds it does not matter.
    python = default_python()
    rows = [
        (minor(version), python, target, matrix["macos"]["sdk"][target])
        for version in matrix["conda"]["torch"]
        for target in macos_targets(matrix, version)[:1]
    ]
    names = ("pytorch", "python", "c_stdlib_version", "MACOSX_SDK_VERSION")
    return columns(names, rows)


def columns(names: tuple[str, ...], rows: Rows) -> dict[str, list[str]]:
    """Turn rows into the lists that zip_keys combine again."""
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}


def variant_file(platform: str, stdlib: str, keys: dict[str, list[str]]) -> str:
    """Return the text of one variant file."""
    lines = {"target_platform": [platform], "c_stdlib": [stdlib], **keys}
    lines["zip_keys"] = [list(keys)]  # type: ignore[list-item]
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in lines.items())
    return HEAD + text


def variant_files(matrix: dict[str, Any]) -> dict[str, str]:
    """Return path → text of every variant file."""
    return {
        "recipe/variants-linux-64.yaml": variant_file(
            "linux-64", "sysroot", linux(matrix)
        ),
        "recipe/variants-osx-arm64.yaml": variant_file(
            "osx-arm64", "macosx_deployment_target", macos(matrix)
        ),
    }


def main() -> None:
    """Write the files."""
    for name, text in variant_files(versions()).items():
        (ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
