"""When the source is from: the time that every package made of it carries.

A package must have the same bytes whenever and wherever it is built, so no file in
it may have the time of the build.  In this order: SOURCE_DATE_EPOCH of the
environment, the commit that is checked out, and cmake/source_date.txt, which a source
distribution and `git archive` have filled in.

Usage: python cmake/source_date.py (prints seconds since 1970, UTC)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = "cmake/source_date.txt"
OLDEST = 315532800  # 1980: no zip file can say an older time.


def committed(root: Path) -> int | None:
    """Return the time of the commit that is checked out, if one is."""
    if not (root / ".git").exists():  # Another project's, further up, is not asked.
        return None
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"[orchard_ops] no time of the commit: {error}", file=sys.stderr)
        return None
    return int(done.stdout)


def recorded(root: Path) -> int | None:
    """Return the time that was filled in when the source left its repository."""
    path = root / FILE
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def epoch(root: Path = ROOT) -> int:
    """Return the time of the source, in seconds since 1970."""
    asked = os.environ.get("SOURCE_DATE_EPOCH")
    if asked:
        return max(int(asked), OLDEST)
    for found in (committed(root), recorded(root)):
        if found is not None:
            return max(found, OLDEST)
    return OLDEST


if __name__ == "__main__":
    print(epoch())
