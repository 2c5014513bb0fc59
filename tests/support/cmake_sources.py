"""The lists of files in CMakeLists.txt, for builds that CMake does not do."""

from __future__ import annotations

import re
from pathlib import Path

from paths import ROOT

GLOB = re.compile(r"file\(GLOB(_RECURSE)? (\w+) CONFIGURE_DEPENDS\s+([^)]*)\)")


def listed(*names: str) -> list[Path]:
    """Return the files of CMake's lists, by their variables, in a fixed order."""
    text = (ROOT / "CMakeLists.txt").read_text()
    lists = {
        name: (bool(deep), rest.split()) for deep, name, rest in GLOB.findall(text)
    }
    found: set[Path] = set()
    for name in names:
        is_recursive, patterns = lists[name]
        for pattern in patterns:
            folder, _, last = pattern.rpartition("/")
            wanted = f"{folder}/**/{last}" if is_recursive else pattern
            found.update(path for path in ROOT.glob(wanted) if path.is_file())
    return sorted(found)
