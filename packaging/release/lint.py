"""Hold the submissions to their channels' rules, as far as those can be read.

Neither conda-smithy nor nixpkgs-hammering nor nixfmt is in a package index.  Their
rules were read (conda-smithy's of August 2026, by their numbers there), and those that
a recipe in v1 format or a Python package can break are asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from release.submission import FORGE, NIXPKGS

SECTIONS = [
    *("schema_version", "context", "package", "source", "build", "requirements"),
    *("tests", "about", "extra"),
]
REQUIREMENTS = ("build", "host", "run")
# nixpkgs-hammering's order, as far as we use it.
ATTRIBUTES = [
    *("pname", "version", "pyproject", "src", "patches", "postPatch", "build-system"),
    *("nativeBuildInputs", "buildInputs", "dependencies", "optional-dependencies"),
    *("nativeCheckInputs", "pypaBuildFlags", "env", "doCheck", "dont", "checkPhase"),
    *("pythonImportsCheck", "passthru", "meta"),
]


def broken(claims: dict[str, bool]) -> list[str]:
    """Return the rules that do not hold."""
    return [rule for rule, holds in claims.items() if not holds]


def flat(value: Any) -> Iterator[str]:
    """Return the texts of a list that may have conditions in it."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and "if" in item:
            yield from flat(item["then"])
            yield from flat(item.get("else", []))
        elif isinstance(item, dict):
            yield from flat(list(item.values()))
        else:
            yield str(item)


def sources(value: Any) -> Iterator[dict[str, Any]]:
    """Return the sources of a recipe, also those with a condition."""
    for item in value if isinstance(value, list) else [value]:
        yield from sources(item["then"]) if "if" in item else iter([item])


def requirement_claims(found: dict[str, Any]) -> dict[str, bool]:
    """Return sentence → truth for the requirements."""
    build, host, run = (list(flat(found.get(name, []))) for name in REQUIREMENTS)
    every = [*build, *host, *run]
    plain = [need for need in every if not need.startswith("${{")]
    return {
        "R-009: requirements in the order build, host, run": (
            [name for name in found if name in REQUIREMENTS] == [*REQUIREMENTS]
        ),
        "R-021: no space after an operator": not any(
            re.search(r"[<>=!~]\s", need) for need in plain
        ),
        "R-022: a space before the version": not any(
            re.match(r"[\w-]+[<>=!~]", need) for need in plain
        ),
        "R-023: python in host is in run too": (
            "python" not in host or any(need.split()[0] == "python" for need in run)
        ),
        "R-033: a compiler comes with stdlib": (
            not any("compiler(" in need for need in build)
            or '${{ stdlib("c") }}' in build
        ),
        "R-034, R-035: neither sysroot nor __osx by name": not any(
            need.startswith(("sysroot", "__osx")) for need in every
        ),
    }


def recipe_claims(text: str, found: dict[str, Any]) -> dict[str, bool]:
    """Return sentence → truth for a recipe."""
    about, every = found.get("about", {}), list(sources(found.get("source", {})))
    extra = found.get("extra") or {}
    known = [name for name in SECTIONS if name in found]
    licence = str(about.get("license", ""))
    return {
        "R-000, R-001: known sections in their order": list(found) == known,
        **{
            f"R-002: about has {name}": bool(about.get(name))
            for name in ("homepage", "license", "summary")
        },
        "R-003, R-004: extra names recipe-maintainers": (
            isinstance(extra.get("recipe-maintainers"), list)
        ),
        "R-005: there are tests": bool(found.get("tests")),
        "R-007, R-010: a licence by its SPDX name": (
            "license" not in licence.lower() and licence.lower() != "unknown"
        ),
        "R-008: build has a number": "number" in found.get("build", {}),
        "R-011, R-012: one newline at the end": (
            text.endswith("\n") and not text.endswith("\n\n")
        ),
        "R-013: about has license_file": bool(about.get("license_file")),
        "R-014: a lower-case name": (
            re.fullmatch(r"[a-z0-9_.-]+", found["package"]["name"]) is not None
        ),
        "R-015, R-016, R-040: the version is a text": isinstance(
            found.get("context", {}).get("version"), str
        ),
        "R-019: every url has a sha256": all(
            "url" not in each or re.fullmatch(r"[0-9a-f]{64}", each.get("sha256", ""))
            for each in every
        )
        and any("url" in each for each in every),
        "addresses: homepage and url begin with https://": all(
            str(address).startswith("https://")
            for address in (
                about.get("homepage"),
                *(each["url"] for each in every if "url" in each),
            )
        ),
        "R-025: one space inside ${{ }}": not re.search(
            r"\$\{\{(?! \S)|(?<!\S )\}\}", text
        ),
        "R-028, R-029: no wheel as a source": not any(
            str(each.get("url", "")).endswith(".whl") for each in every
        ),
        **requirement_claims(found.get("requirements", {})),
    }


def recipe_problems(folder: Path) -> list[str]:
    """Return what conda-forge's linter would say of a recipe."""
    import yaml

    path = folder / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    claims = recipe_claims(text, yaml.safe_load(text))
    return [f"{path.name}: expected {rule}" for rule in broken(claims)]


def attribute_order(text: str) -> list[str]:
    """Return the attributes of a package in the order in which they stand."""
    body = text[text.index("buildPythonPackage (") :]
    form = r"^  (?:inherit )?([\w-]+)(?:\.\w+)?(?: =.*|;)$"
    names = re.findall(form, body, re.MULTILINE)
    return [re.sub("^dont.*", "dont", name) for name in names]


def package_problems(text: str) -> list[str]:
    """Return what nixpkgs-hammering and nixpkgs' manual would say of a package."""
    order = attribute_order(text)
    unknown = [name for name in order if name not in ATTRIBUTES]
    places = [ATTRIBUTES.index(name) for name in order if name not in unknown]
    phases = re.findall(r"(\w+)Phase = ", text)
    described = re.search(r'description = "([^"]*)"', text)
    inputs = re.search(r"\n  buildInputs = (.*?);", text, re.DOTALL)
    claims = {
        f"attribute-typo: known attributes, not {unknown}": not unknown,
        "attribute-ordering: sources, inputs, environment, phases, meta": (
            places == sorted(places)
        ),
        "build-tools-in-build-inputs: cmake and ninja in nativeBuildInputs": (
            inputs is None or not re.search(r"\b(cmake|ninja|pkg-config)\b", inputs[1])
        ),
        "explicit-phases, fixup-phase, patch-phase: no phase but check": (
            set(phases) <= {"check"}
        ),
        "missing-phase-hooks: runHook before and after each phase": all(
            f"runHook {when}{phase.title()}" in text
            for phase in phases
            for when in ("pre", "post")
        ),
        "environment-variables-go-to-env: nothing but env.NAME in capitals": (
            not re.search(r"^  [A-Z_]{4,} = ", text, re.MULTILINE)
        ),
        "name-and-version: pname and version, no name": (
            order[:2] == ["pname", "version"] and "name" not in order
        ),
        "license-missing: a licence of lib.licenses": (
            re.search(r"license = .*lib\.licenses\.", text) is not None
        ),
        "maintainers-missing: somebody": (
            re.search(r"maintainers = with lib.maintainers; \[ \w", text) is not None
        ),
        "python-imports-check-typo: pythonImportsCheck": "pythonImportsCheck" in order,
        "python-inconsistent-interpreters: no python3Packages": (
            "python3Packages" not in text
        ),
        "no-uri-literals: quotes around each address": not re.search(
            r"[^\"]https?://", text
        ),
        "addresses: homepage begins with https://": (
            re.search(r'homepage = "https://', text) is not None
        ),
        "description: no article, no dot, a capital": (
            described is not None
            and re.fullmatch(r"(?!(A|An|The) )[A-Z].*[^.]", described[1]) is not None
        ),
    }
    return [f"default.nix: expected {rule}" for rule in broken(claims)]


def problems(out: Path) -> list[str]:
    """Return what both channels would say of a folder of submissions."""
    return [
        *recipe_problems(out / FORGE),
        *package_problems((out / NIXPKGS).read_text(encoding="utf-8")),
    ]
