"""Render a release's notes from CHANGELOG.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from project import Failure

HEADING = re.compile(r"^## (\S+) \((.+)\)$", re.MULTILINE)
UNRELEASED = "unreleased"
NOTES = """\
# orchard-ops {version}

{changes}

## Check what you have downloaded

```
sha256sum --check --ignore-missing SHA256SUMS
gh attestation verify FILE --repo OWNER/orchard-ops
```

## Files

{files}
"""


def section(root: Path, version: str) -> tuple[str, str]:
    """Return the date and the text that the changelog has for a version.

    Raises:
        Failure: it has no such section, or an empty one.
    """
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = list(HEADING.finditer(text))
    for at, heading in enumerate(headings):
        if heading[1] == version:
            last = headings[at + 1].start() if at + 1 < len(headings) else len(text)
            body = text[heading.end() : last].strip()
            if not body:
                raise Failure(f"CHANGELOG.md: the section of {version} is empty")
            return heading[2], body
    raise Failure(
        f"CHANGELOG.md: expected a section `## {version} (date)`, which becomes the "
        f"notes; found {', '.join(found[1] for found in headings) or 'none'}"
    )


def render(root: Path, version: str, files: Iterable[str]) -> str:
    """Return the notes of a release."""
    _, changes = section(root, version)
    listed = "\n".join(f"- `{name}`" for name in files)
    return NOTES.format(version=version, changes=changes, files=listed)
