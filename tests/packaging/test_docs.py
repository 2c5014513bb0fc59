"""The pages name files that exist, and the reference has every public name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paths import ROOT

import orchard_ops

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = (
    "cmake|csrc|docs|examples|kernels|nix|orchard_ops|packaging|recipe|tests|tools"
)
PATH = re.compile(rf"`(?:python |pytest )?((?:{FOLDERS})/[\w./*-]*)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Files and folders of the repository in code, and the targets of links."""
    text = page.read_text(encoding="utf-8")
    names = [(ROOT, name) for name in PATH.findall(text)]
    names += [(page.parent, target) for target in LINK.findall(text)]
    missing = [name for base, name in names if not [*base.glob(name)]]
    assert missing == []


def test_the_reference_has_every_public_name() -> None:
    """What the package exports has a place on a page of docs/api."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"^::: orchard_ops\.(\w+)", text, re.M))
    assert set(orchard_ops.__all__) - {"__version__"} <= named
