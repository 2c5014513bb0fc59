"""The kernel specialisations that ship: listed by the launch plan itself.

``python tests/metal/specialisations/specialisations.py`` rewrites ``golden.txt`` after
a change of the tile tables, of a kernel's defines or of the features in ``list.cpp``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import compact

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
GOLDEN = HERE / "golden.txt"


@dataclass(frozen=True)
class Specialisation:
    """One line of the list."""

    line: str

    @property
    def file(self) -> str:
        """The kernel's file in kernels/."""
        return self.line.split()[0]

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.line.split()[1]

    @property
    def defines(self) -> dict[str, str]:
        """The macros, name → value."""
        return dict(pair.split("=") for pair in self.line.split()[2:])

    def __getitem__(self, name: str) -> int:
        """Return a macro that is a number."""
        return int(self.defines[name])


def compiler() -> list[str]:
    """Return the command of the C++ compiler."""
    return [os.environ.get("CXX") or shutil.which("c++") or "g++"]


def _sources() -> list[Path]:
    """Return what the program is made of, one of them as a mutant has it.

    tools/mutant_parts.py names that one: its path in the tree, = and the file.
    """
    name, _, broken = os.environ.get("ORCHARD_TEST_BROKEN", "").partition("=")
    return [
        Path(broken) if path == ROOT / name else path
        for path in (
            *sorted(HERE.glob("*.cpp")),
            *sorted((ROOT / "csrc/attention").glob("*.cpp")),
            ROOT / "csrc/device/longest.cpp",
        )
    ]


@cache
def program() -> Path:
    """Build the program that lists them, unless it is in the user's cache."""
    sources = _sources()
    headers = [
        *HERE.glob("*.h"),
        *(ROOT / "csrc/attention").glob("*.h"),
        *(ROOT / "csrc/device").glob("*.h"),
    ]
    texts = [*sources, *sorted(headers), ROOT / "kernels/params.h"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "orchard-ops-dev" / "specialisations"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    built = folder / digest[:16]
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            out = Path(work, "list")
            flags = ["-std=c++20", "-O1", f"-I{ROOT}", f"-I{ROOT / 'csrc'}"]
            command = [*compiler(), *flags, "-o", str(out), *map(str, sources)]
            subprocess.run(command, check=True)
            out.rename(built)
    return built


def said(word: str, given: str = "") -> str:
    """Return what the program prints when asked for something."""
    command = [str(program()), word]
    return subprocess.run(
        command, check=True, text=True, capture_output=True, input=given
    ).stdout


def survey(has_registers: bool) -> dict[str, tuple[int, int]]:
    """Return kernel → threads with and without the attribute (survey.h)."""
    text = said("survey" if has_registers else "survey-of-few-registers")
    rows = (line.split() for line in text.splitlines())
    return {name: (int(kept), int(without)) for name, kept, without in rows}


@cache
def listed(families: str = "abc") -> list[Specialisation]:
    """Return what the launch plan asks for now on some classes of GPU."""
    return [Specialisation(line) for line in said(families).splitlines()]


def launches(problems: list[str]) -> list[list[list[str]]]:
    """Return the launches that problems are cut into, in the words of launches.h."""
    given = "".join(f"{problem}\n" for problem in problems)
    plans = said("launches", given).split("\n\n")[:-1]
    assert len(plans) == len(problems)
    return [[line.split() for line in plan.splitlines()] for plan in plans]


def golden() -> list[Specialisation]:
    """Return what ships, by the list under version control."""
    return [Specialisation(line) for line in sorted(compact.read(GOLDEN.read_text()))]


if __name__ == "__main__":
    GOLDEN.write_text(compact.write(s.line for s in listed()))
    print(f"{len(listed())} specialisations in {GOLDEN}")
