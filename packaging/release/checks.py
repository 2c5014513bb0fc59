"""Check a tree and what was built of it before anything is published.

Every function returns a sentence for each thing that is wrong.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import contents
from project import Failure, digest, python_tag, table, versions

from release import notes

SUMS = "SHA256SUMS"
# Where a release's files lie under dist/.
PYPI = ("*.tar.gz", "*.whl", "macos/*.whl", "linux/*.whl")
CONDA = ("conda/*/*.conda",)
# The version's one place, and the copies that other people's tools read, which are
# compared with it.
PLACE = "pyproject.toml"
COPIES = {
    "CITATION.cff": "\nversion: {}\n",
    "recipe/recipe.yaml": '\n  version: "{}"\n',
}
SOURCES = ("orchard_ops", "cmake", "csrc", "nix", "packaging", "recipe", "tools")
LICENCES = ("MIT", "MIT AND Apache-2.0")
WHEEL = re.compile(r"orchard_ops-([^-]+)-[^-]+-[^-]+-([^-]+)\.whl")
# What PyPI takes of the platforms that we build for.
PLATFORM = re.compile(r"(macosx_\d+_\d+_arm64|manylinux\w+)(\.manylinux\w+)*")


def files_of(dist: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the files of a release of one kind, in a fixed order."""
    return sorted(path for pattern in patterns for path in dist.glob(pattern))


def version_of(root: Path) -> str:
    """Return the version, out of its one place."""
    return str(table("pyproject.toml", root)["project"]["version"])


def version_problems(root: Path) -> Iterator[str]:
    """Look for copies of the version: those that are compared, and others."""
    version = version_of(root)
    for name, line in COPIES.items():
        if line.format(version) not in (root / name).read_text(encoding="utf-8"):
            yield f"{name}: expected version {version}, which {PLACE} states"
    stated = re.compile(
        rf"""version\w*["' ]*[=:(,]\s*["'v]*{re.escape(version)}""", re.I
    )
    for path in sorted(path for part in SOURCES for path in (root / part).rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix not in (".py", ".cpp", ".h", ".nix", ".cmake", ".yaml"):
            continue
        text = path.read_text(encoding="utf-8")
        if name not in COPIES and stated.search(text):
            yield (
                f"{name}: states the version {version} itself, a second place; read "
                f"it from {PLACE}"
            )


def changelog_problems(root: Path, is_final: bool) -> Iterator[str]:
    """Look for the section that becomes the notes; a release's has a date."""
    try:
        date, _ = notes.section(root, version_of(root))
    except Failure as error:
        yield str(error)
        return
    if is_final and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        yield f"CHANGELOG.md: expected the release's date (2026-12-31), came ({date})"


def commit_problems(root: Path) -> Iterator[str]:
    """Look whether a release is made of what its tag names."""

    def git(*command: str) -> str:
        asked = ["git", "-C", str(root), *command]
        try:
            done = subprocess.run(asked, text=True, capture_output=True)
        except FileNotFoundError:  # No git here, so no tag.
            return ""
        return done.stdout.strip()

    tag = f"v{version_of(root)}"
    if tag not in git("tag", "--points-at", "HEAD").split():
        yield f"git: expected the tag {tag} at this commit: git tag {tag}"
    if changed := git("status", "--porcelain"):
        yield f"git: expected nothing uncommitted, came\n{changed}"


def licence_problems(root: Path) -> Iterator[str]:
    """Look for the licence that everything is published under."""
    project = table("pyproject.toml", root)["project"]
    for name in project.get("license-files", []) or ["LICENSE"]:
        path = root / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not text.startswith("MIT License"):
            yield f"{name}: expected the text of the MIT licence, which {PLACE} states"


def tree_problems(root: Path, is_final: bool) -> list[str]:
    """Check a tree: version, changelog, licence; for a release the commit too."""
    found = [
        *version_problems(root),
        *changelog_problems(root, is_final),
        *licence_problems(root),
    ]
    return [*found, *commit_problems(root)] if is_final else found


def name_problem(name: str, version: str) -> str | None:
    """Say why PyPI would refuse a file's name."""
    if name == f"orchard_ops-{version}.tar.gz":
        return None
    wheel = WHEEL.fullmatch(name)
    if wheel is None:
        return f"{name}: expected orchard_ops-{version}.tar.gz or a wheel's name"
    if "+" in wheel[1]:
        return f"{name}: PyPI refuses a local version ({wheel[1]}): expected {version}"
    if wheel[1] != version:
        return f"{name}: expected version {version}, came {wheel[1]}"
    if not PLATFORM.fullmatch(wheel[2]):
        return f"{name}: PyPI refuses the platform {wheel[2]}"
    return None


def wanted_fields(root: Path) -> dict[str, Any]:
    """Return what the metadata of every package must say: field → value."""
    project = table("pyproject.toml", root)["project"]
    readme = (root / project["readme"]).read_text(encoding="utf-8")
    urls = project.get("urls", {})
    return {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
        "Classifier": sorted(project["classifiers"]),
        "Provides-Extra": sorted(project["optional-dependencies"]),
        "Project-URL": sorted(f"{name}, {at}" for name, at in urls.items()),
        "description": readme.strip(),
    }


def field(message: Message, name: str) -> Any:
    """Return a field's value; a sorted list for one that may come several times."""
    if name == "description":
        return str(message.get_payload()).strip()
    if name in ("Classifier", "Provides-Extra", "Project-URL"):
        return sorted(message.get_all(name, []))
    return message.get(name)


def metadata_problems(name: str, text: bytes, root: Path) -> Iterator[str]:
    """Compare a package's metadata with pyproject.toml."""
    message = Parser().parsestr(text.decode("utf-8"))
    for wanted, value in wanted_fields(root).items():
        came = field(message, wanted)
        if came != value:
            told = "README.md" if wanted == "description" else repr(value)
            yield f"{name}: metadata {wanted}: expected {told}, came {str(came)[:80]!r}"
    licence = message.get("License-Expression")
    if licence not in LICENCES:
        yield f"{name}: metadata License-Expression: expected MIT, came {licence!r}"


def archive_problems(path: Path, root: Path) -> Iterator[str]:
    """Check the name, the metadata and the licences of a file for PyPI."""
    if problem := name_problem(path.name, version_of(root)):
        yield problem
    is_wheel = path.suffix == ".whl"
    files = contents.read_wheel(path) if is_wheel else contents.read_sdist(path)
    if is_wheel:
        wrong = contents.record_problems(files)
        yield from (f"{path.name}: {sentence}" for sentence in wrong)
    ours = (root / "LICENSE").read_bytes()
    for name, data in files.items():
        if name == "PKG-INFO" or name.endswith(".dist-info/METADATA"):
            yield from metadata_problems(path.name, data, root)
            break
    else:
        yield f"{path.name}: has no metadata"
    licences = [n for n in files if re.search(r"(^|/licenses/)LICENSE$", n)]
    if not any(files[name] == ours for name in licences):
        yield f"{path.name}: our LICENSE is missing"


def conda_problems(dist: Path, version: str) -> Iterator[str]:
    """Check the conda packages' names; the session that makes them checks the rest."""
    for path in files_of(dist, CONDA):
        if not path.name.startswith(f"orchard-ops-{version}-torch"):
            yield f"{path.name}: expected orchard-ops-{version}-torch…"


def sums(dist: Path) -> str:
    """Return the lines of SHA256SUMS, as `sha256sum` reads and writes them.

    Files lie beside one another where they are downloaded, so it names no folders.
    """
    paths = [*files_of(dist, PYPI), *files_of(dist, CONDA)]
    rows = sorted((path.name, digest(path)) for path in paths)
    return "".join(f"{what}  {name}\n" for name, what in rows)


def sum_problems(dist: Path) -> Iterator[str]:
    """Compare SHA256SUMS with the files."""
    path = dist / SUMS
    came = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    wanted = sums(dist).splitlines()
    for row in sorted({*came} ^ {*wanted}):
        what = "does not fit its file" if row in came else "is missing or another"
        yield f"{SUMS}: the line of {row.partition('  ')[2]} {what}"


def python_problems(dist: Path) -> Iterator[str]:
    """Look for a Linux wheel for each Python that the package is for."""
    names = [path.name for path in files_of(dist, PYPI)]
    for version in versions()["package"]["python"]:
        tag = python_tag(version)
        if not any(f"-{tag}-{tag}-manylinux" in name for name in names):
            yield f"dist: no Linux wheel for Python {version}, not found on the path"


def dist_problems(dist: Path, root: Path, is_whole: bool = True) -> list[str]:
    """Check everything that was built; of a sample what there is."""
    archives = files_of(dist, PYPI)
    kinds = {
        "source distribution": ".tar.gz",
        "wheel for macOS": "_arm64.whl",
        "wheel for Linux": "_x86_64.whl",
    }
    found = [
        f"dist: expected a {kind}, found none"
        for kind, ending in kinds.items()
        if is_whole and not any(path.name.endswith(ending) for path in archives)
    ]
    if is_whole and not files_of(dist, CONDA):
        found.append("dist: expected conda packages, found none")
    for path in archives:
        found += archive_problems(path, root)
    return [*found, *conda_problems(dist, version_of(root)), *sum_problems(dist)]
