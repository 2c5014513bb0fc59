"""What docs/on-a-mac.md quotes and what an issue is asked for exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "on-a-mac.md"
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
STEPS = 9
# Programs whose words we do not write.
OTHERS = ("pip: ", "macOS: ", "nox: ", "pytest: ", "PyTorch: ", "as in ", "see ")


def sources() -> str:
    """Return all that may say something, with the pieces of each literal joined."""
    texts = []
    for folder, suffix in (
        ("orchard_ops", "py"),
        ("csrc", "cpp"),
        ("cmake", "py"),
        ("packaging", "py"),
        ("tests", "py"),
    ):
        for path in sorted((ROOT / folder).rglob(f"*.{suffix}")):
            if path != Path(__file__):
                texts.append(path.read_text(encoding="utf-8"))
    return re.sub(r'"\s*f?"', "", "\n".join(texts))


def rows() -> list[tuple[str, str]]:
    """Return step and message of each row of "What can go wrong"."""
    section = PAGE.read_text(encoding="utf-8").partition("## What can go wrong")[2]
    table = section.partition("\n## ")[0]
    found = re.findall(r"^\| (\d) \| (.+?) \|", table, re.MULTILINE)
    assert found
    return found


def test_each_step_says_what_can_go_wrong() -> None:
    """No step is without a row."""
    assert {int(step) for step, _ in rows()} == set(range(1, STEPS + 1))


def test_each_quoted_message_is_one_that_we_write() -> None:
    """Between the … that stand for what varies, the words are those of the sources."""
    text = sources()
    for _, message in rows():
        if message.startswith(OTHERS):
            continue
        ours = message.partition("and then macOS")[0]
        for quoted in re.findall(r"`([^`]+)`", ours):
            for piece in re.split(r"…|: $", quoted):
                assert piece.strip(" :,") in text, quoted


@pytest.mark.parametrize("form", ["wrong-result.yml", "performance.yml"])
def test_each_form_asks_for_the_report(form: str) -> None:
    """The doctor's file is asked for, by the command that writes it."""
    text = (FORMS / form).read_text(encoding="utf-8")
    assert "orchard-ops doctor --report orchard-report.json" in text
    assert re.search(r"id: report\n.*?required: true", text, re.DOTALL)
