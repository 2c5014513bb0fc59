"""PyTorch's macOS wheels and Apple's metal-cpp on a machine that is no Mac.

Wheels are downloaded with pip and unpacked, headers and libraries only, into a
private per-user cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import locked
from project import versions

TORCH_FILES = re.compile(
    r"torch/(include/|version\.py$|lib/lib(torch_cpu|c10)\.dylib$)"
)
METAL_CPP_FILES = re.compile(r".*/metal_cpp/|.*\.dist-info/METADATA$")
PLATFORMS = [f"macosx_{major}_0_arm64" for major in range(26, 10, -1)]


def cache_root() -> Path:
    """Return the private cache folder, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(base) / "orchard-ops-dev" / "macos"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)  # Fails, as it should, when the folder is someone else's.
    return root


@contextmanager
def held(name: str) -> Iterator[Path]:
    """Hold a cache entry; yields its folder, which may not exist yet."""
    root = cache_root()
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield root / name


class NotFetchedError(RuntimeError):
    """Pip did not give a wheel; the message says why, in pip's words and ours."""


def refusal(requirement: str, python: str, said: str) -> str:
    """Say why pip gave no wheel, and what to do."""
    text = f"pip gave no {requirement} for this platform and Python {python}:\n{said}"
    if "constraint" in said:
        text += (
            "\nThe cause is a constraint in pip's own configuration: `pip config debug`"
            " shows the file, the variable PIP_CONSTRAINT may name another. Lift it."
        )
    return text


def download(
    requirement: str, python: str, into: Path, names: Sequence[str] = PLATFORMS
) -> Path:
    """Download the wheel of a requirement for a Python and one of some platforms.

    Raises:
        NotFetchedError: pip refused or failed.
    """
    platforms = [part for name in names for part in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", *locked.OPTIONS]
    command += ["--only-binary=:all:", "--no-cache-dir", *platforms]
    command += ["--python-version", python, "--dest", str(into)]
    with locked.requirement_file([locked.wheel(requirement)]) as path:
        command += ["--requirement", path]
        done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        # Which constraint it was pip says on stdout only.
        said = [line.strip() for line in f"{done.stdout}{done.stderr}".splitlines()]
        lines = [x for x in said if x.startswith("ERROR") or "user requested" in x]
        raise NotFetchedError(refusal(requirement, python, "\n".join(lines)))
    return next(into.glob("*.whl"))


def unpacked(
    requirement: str,
    python: str,
    wanted: re.Pattern[str],
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Return the cached folder with what is wanted of a wheel, by default macOS's."""
    system = "" if platforms is PLATFORMS else f"-{platforms[0]}"
    name = requirement.replace("==", "-") + system
    with held(name) as tree:
        if not tree.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=tree.parent) as work:
                print(f"downloading {requirement} for {platforms[-1]}", flush=True)
                wheel = download(requirement, python, Path(work), platforms)
                with zipfile.ZipFile(wheel) as archive:
                    names = [n for n in archive.namelist() if wanted.match(n)]
                    archive.extractall(Path(work, "tree"), names)
                Path(work, "tree").rename(tree)
        return tree


def torch_tree(version: str, python: str) -> Path:
    """Return the folder that holds ``torch/`` of a macOS wheel."""
    return unpacked(f"torch=={version}", python, TORCH_FILES)


def metal_cpp(python: str, version: str | None = None) -> Path:
    """Return the folder that holds ``Metal/Metal.hpp``, of a version of mlx-metal."""
    version = version or versions()["nix"]["mlx_metal"]
    tree = unpacked(f"mlx-metal=={version}", python, METAL_CPP_FILES)
    return next(tree.rglob("Metal/Metal.hpp")).parent.parent


def headers_version(metal_cpp: Path) -> str | None:
    """Return the version of mlx-metal that a folder of headers came in, if one did."""
    for folder in metal_cpp.parents[:4]:
        for info in folder.glob("mlx_metal-*.dist-info"):
            return info.stem.partition("-")[2]
    return None
