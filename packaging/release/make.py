"""Finish and check a release that has been built into dist/.

Writes SHA256SUMS, the notes and the submissions, and checks names, metadata, hashes,
licences, changelog and version.  `nox -s release` builds first, then runs this.

Usage: python packaging release.make [--final] [--sample] [--archives URL]
                                     [--maintainer NAME ...]
  --final: the version's tag must stand at this commit, and its changelog have a date
  --sample: not everything was built, as in CI
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from project import ROOT, Failure

from release import checks, lint, notes, submission


def twine(archives: list[Path]) -> list[str]:
    """Return what PyPI's own tool says of the archives' metadata."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)]
    done = subprocess.run(command, text=True, capture_output=True)
    return [] if done.returncode == 0 else [f"twine: {done.stdout}{done.stderr}"]


def finish(dist: Path, root: Path, archives: str, maintainers: list[str]) -> list[str]:
    """Write what a release has besides packages; return what its channels refuse."""
    (dist / checks.SUMS).write_text(checks.sums(dist), encoding="utf-8")
    files = [*checks.files_of(dist, checks.PYPI), *checks.files_of(dist, checks.CONDA)]
    names = [path.name for path in files]
    text = notes.render(root, checks.version_of(root), names)
    (dist / "notes.md").write_text(text, encoding="utf-8")
    sdist = next((path for path in files if path.name.endswith(".tar.gz")), None)
    if sdist is None:
        raise Failure(f"{dist}: expected a source distribution, found none")
    out = dist / "submission"
    submission.write(root, sdist, out, archives, maintainers)
    return lint.problems(out)


def main() -> None:
    """Finish, check and say what there is; exit 1 and say what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--final", action="store_true", help="the tagged commit's own release")
    add("--sample", action="store_true", help="not everything was built")
    add("--archives", default=submission.UNKNOWN, help="where the sdist will lie")
    add("--maintainer", nargs="*", default=[], help="GitHub names for the channels")
    add("--dist", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    # Before what may need hours to be built again.
    wrong = checks.tree_problems(ROOT, options.final)
    if wrong:
        raise Failure("\n".join(wrong))
    wrong = finish(options.dist, ROOT, options.archives, options.maintainer)
    if not options.sample:
        wrong += checks.python_problems(options.dist)
    # What only a project with an address and somebody behind it can say, and a
    # machine with every Python make.
    unsaid = ("maintainers", "addresses", "homepage", "on the path")
    left = [each for each in wrong if any(word in each for word in unsaid)]
    if not options.final:
        wrong = [each for each in wrong if each not in left]
        print("\n".join(f"left to say before a release: {each}" for each in left))
    wrong += checks.dist_problems(options.dist, ROOT, not options.sample)
    wrong += twine(checks.files_of(options.dist, checks.PYPI))
    if wrong:
        raise Failure("\n".join(wrong))
    print((options.dist / checks.SUMS).read_text(), end="")
    print(f"version {checks.version_of(ROOT)}: nothing is wrong; see {options.dist}")


if __name__ == "__main__":
    main()
