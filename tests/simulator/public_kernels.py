"""Read the kernels of other projects in folders, and say how far they go.

No kernel is part of this project: the folders are copies of public sources that the
user has.  Two tables in Markdown: which files compile, with the first obstacle of those
that do not, and which kernels compute what NumPy does, in plain and strict mode.

Usage: python tests/simulator/public_kernels.py FOLDER ... [--kernels 3] [--only PART]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orchard_ops
from orchard_ops import sim

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from public_cases import Case, cases

MISSING = re.compile(r"value of the function constant (\w+), which")


@dataclass(frozen=True)
class Found:
    """One file."""

    file: Path
    kernels: int
    compiled: int
    tried: int
    obstacle: str = ""


def folders_of(file: Path, root: Path) -> list[Path]:
    """Return where a file's includes may lie: the folders around it, with theirs."""
    around = [folder for folder in file.parents if folder.is_relative_to(root)]
    return [
        *around,
        *(folder / "include" for folder in around if (folder / "include").is_dir()),
    ]


def compile_one(library: sim.Library, name: str) -> str:
    """Compile a kernel, all of whose constants are 1; return what stood against it."""
    constants: dict[int | str, bool | float] = {}
    while True:
        try:
            library.kernel(name, constants)
        except orchard_ops.KernelCompileError as error:
            missing = MISSING.search(str(error))
            if missing is None or missing[1] in constants:
                return first_line(error)
            constants[missing[1]] = 1
        else:
            return ""


def first_line(error: orchard_ops.KernelCompileError) -> str:
    """Return the compiler's first complaint."""
    if error.diagnostics:
        return error.diagnostics[0].message
    return str(error).splitlines()[-1]


def spread(names: Sequence[str], count: int) -> list[str]:
    """Return so many of the names, from the first to the last; 0 for all."""
    if count == 0 or count >= len(names):
        return list(names)
    last = len(names) - 1
    return [names[round(i * last / max(1, count - 1))] for i in range(count)]


def survey(file: Path, root: Path, count: int) -> Found | None:
    """Compile some kernels of a file; None for one that has none."""
    try:
        library = sim.library(file, include=folders_of(file, root))
        names = library.names
    except orchard_ops.KernelCompileError as error:
        return Found(file, 0, 0, 0, first_line(error))
    if not names:
        return None
    tried = spread(names, count)
    obstacles = [compile_one(library, name) for name in tried]
    worst = next(filter(None, obstacles), "")
    return Found(file, len(names), obstacles.count(""), len(tried), worst)


def files_in(root: Path, part: str) -> list[Path]:
    """Return the files of kernels below a folder."""
    return [file for file in sorted(root.rglob("*.metal")) if part in str(file)]


def outcome(case: Case, file: Path, root: Path) -> tuple[list[str], bool]:
    """Run a case plain and strict; return a word for each, and whether it is right."""
    words = []
    is_right = True
    for strict in (False, True):
        try:
            error = case.error(file, folders_of(file, root), strict)
        except orchard_ops.OrchardError as problem:
            words.append(str(problem).splitlines()[-1])
            is_right = False
        else:
            words.append(f"{error:.1e}")
            is_right = is_right and error <= case.tolerance
    return words, is_right


def matching(
    files: Sequence[tuple[Path, Path]],
) -> Iterator[tuple[Case, Path, Path]]:
    """Yield the cases whose file is there, with the file and its root."""
    for case in cases():
        for file, root in files:
            if file.as_posix().endswith(case.file):
                yield case, file, root


def main() -> int:
    """Print both tables; 1 where a case computed something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--kernels", type=int, default=3, help="of a file; 0: all")
    parser.add_argument("--only", default="", help="part of the paths that are read")
    asked = parser.parse_args()
    roots = [folder.resolve() for folder in asked.folders]
    for root in roots:
        if not root.is_dir():
            parser.error(f"expected a folder of sources, got {root}")
    files = [(file, root) for root in roots for file in files_in(root, asked.only)]
    print("| file | kernels | compiled of tried | first obstacle |")
    print("| --- | --- | --- | --- |")
    found: list[Found] = []
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(survey, *place, asked.kernels) for place in files]
        for (_, root), job in zip(files, jobs):
            row = job.result()
            if row is None:
                continue
            found.append(row)
            print(
                f"| {row.file.relative_to(root.parent)} | {row.kernels} | "
                f"{row.compiled} of {row.tried} | {row.obstacle[:100]} |",
                flush=True,
            )
    whole = sum(row.tried > 0 and row.compiled == row.tried for row in found)
    print(f"\n{whole} of {len(found)} files compile.\n")
    print("| kernel | plain | strict | right |")
    print("| --- | --- | --- | --- |")
    wrong = right = 0
    for case, file, root in matching(files):
        words, is_right = outcome(case, file, root)
        right += is_right
        wrong += not is_right
        mark = "yes" if is_right else "no"
        print(f"| {case.kernel} | {words[0]} | {words[1]} | {mark} |", flush=True)
    print(f"\n{right} of {right + wrong} kernels compute what NumPy does.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
