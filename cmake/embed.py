"""Turn kernel texts into one C++ file that holds them as a table.

Usage: python embed.py OUTPUT ROOT FILE...

Each FILE is known in the table by its path relative to ROOT.  The output
defines ``orchard::device::embedded_texts()``, which
``csrc/device/kernel_source.h`` declares.
"""

from __future__ import annotations

import sys
from pathlib import Path

HEAD = """\
// Written by cmake/embed.py: kernel texts, by path from the source root.
#include "device/kernel_source.h"

namespace orchard::device {

namespace {
// A compiler counts the steps of constant expressions, and would look for the end
// of each text one by one.
template <std::size_t N>
constexpr std::string_view literal(const char (&text)[N]) {
  return {text, N - 1};
}
constexpr EmbeddedText kTexts[] = {
"""
TAIL = """\
};
}  // namespace

std::span<const EmbeddedText> embedded_texts() { return kTexts; }

}  // namespace orchard::device
"""


def main() -> None:
    """Write the table of the files named on the command line."""
    output, root, *files = map(Path, sys.argv[1:])
    parts = [HEAD]
    for file in files:
        name = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        parts.append(f'    {{"{name}", literal(R"orchard({text})orchard")}},\n')
    output.write_text("".join([*parts, TAIL]), encoding="utf-8")


if __name__ == "__main__":
    main()
