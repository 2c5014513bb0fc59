"""The audit sees every pin, and tells what may be mended from what is old on purpose.

A stand-in answers in pip-audit's place: no service is asked, and pip-audit itself runs
in ``nox -s audit -- --dry-run``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import audit
import locked
import pytest
from locked import Pin

# It reads the requirement file as pip-audit does, and finds fault with the LAST.
STANDIN = """
import json, re, sys
text = open(sys.argv[-1]).read()
pins = re.findall(r"^([\\w-]+)==(\\S+)( ;)?", text, re.M)[LOST:]
assert not any(marker for _, _, marker in pins)
assert len(pins) == len({name for name, _, _ in pins})
if "--dry-run" in sys.argv:
    sys.exit(f"INFO:Dry run: would have audited {len(pins)} packages")
found = dict(id="PYSEC-1", aliases=["CVE-1"], fix_versions=["9"])
print(json.dumps({"dependencies": [
    dict(name=n, version=v, vulns=[found] if n + v == BAD else []) for n, v, _ in pins
]}))
"""


def pin(name: str, version: str, marker: str = "") -> Pin:
    """Return a pin with a hash that nobody looks at."""
    return Pin(name, version, marker, ("sha256:" + 64 * "0",), frozenset())


PINS = [
    pin("old", "1.9", "python_version < '3.10'"),
    pin("old", "1.10", "python_version >= '3.10'"),
    pin("old", "1.10"),  # of another lock
    pin("new", "2.0", "sys_platform == 'win32'"),
]


def answer(
    monkeypatch: pytest.MonkeyPatch, folder: Path, bad: str = "", lost: int = 0
) -> None:
    """Let a stand-in answer for these pins."""
    script = folder / "standin.py"
    script.write_text(
        STANDIN.replace("BAD", repr(bad)).replace("LOST", str(lost)), encoding="utf-8"
    )
    monkeypatch.setattr(audit, "COMMAND", [sys.executable, str(script)])
    monkeypatch.setattr(audit, "all_pins", lambda: PINS)


def test_versions_are_told_apart() -> None:
    """The newest of each project comes first, without markers, and none twice."""
    newest, older = audit.rounds(PINS)
    assert [(each.name, each.version) for each in newest] == [
        ("new", "2.0"),
        ("old", "1.10"),
    ]
    assert [(each.name, each.version) for each in older] == [("old", "1.9")]
    assert not any(each.marker for each in newest + older)


def test_every_lock_is_read() -> None:
    """What any of the locks pins is among what is looked up."""
    found = {
        (e.name, e.version) for some in audit.rounds(audit.all_pins()) for e in some
    }
    assert ("torch", "2.1.2") in found
    for path in locked.LOCKS.glob("*.txt"):
        assert {(e.name, e.version) for e in locked.read(path.stem)} <= found


@pytest.mark.parametrize(("bad", "status"), [("", 0), ("old1.9", 0), ("old1.10", 1)])
def test_only_the_newest_fails(
    bad: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is found is printed; in the newest version it is a failure."""
    answer(monkeypatch, tmp_path, bad)
    assert audit.main([]) == status
    line = f"old {bad[3:]}: PYSEC-1 CVE-1, mended in 9"
    assert (line in capsys.readouterr().out) == bool(bad)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_lost_pin_is_noticed(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An answer about fewer pins than were asked about is a failure."""
    answer(monkeypatch, tmp_path)
    if options:
        assert audit.main(options) == 0
    answer(monkeypatch, tmp_path, lost=1)
    with pytest.raises(SystemExit, match="pins"):
        audit.main(options)


def test_no_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip-audit that reaches no service has not said that all is well."""
    command = [sys.executable, "-c", "raise SystemExit('no service')"]
    monkeypatch.setattr(audit, "COMMAND", command)
    with pytest.raises(SystemExit, match="gives no answer:\nno service"):
        audit.main([])
