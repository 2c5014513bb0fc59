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
    """api/more.md lists what the package exports but for what it leaves to others."""
    pages = {
        path.stem: path.read_text("utf-8") for path in (ROOT / "docs/api").iterdir()
    }
    named = re.findall(r"^::: orchard_ops\.(\w+)", "\n".join(pages.values()), re.M)
    (left_out,) = re.findall(r'^ +- "!\^\((.+)\)\$"', pages["more"], re.M)
    pattern = left_out.replace("\\\\", "\\")
    left = {name for name in orchard_ops.__all__ if re.fullmatch(pattern, name)}
    assert {"flash_attention", "sdpa"} <= left <= set(named)
