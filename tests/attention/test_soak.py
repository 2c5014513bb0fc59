"""The soak is quiet where nothing leaks, and names each kind of leak."""

from __future__ import annotations

import pytest
import soak
import soak_readings
from needs import skip_without_metalsim

from orchard_ops import sdpa

skip_without_metalsim("counters")

CALLS = 120


@pytest.fixture(autouse=True)
def _few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each looks at every object of the process, and pytest has many.
    monkeypatch.setattr(soak, "READINGS", 8)


def test_nothing_grows(capsys: pytest.CaptureFixture[str]) -> None:
    """A short run of every call leaves nothing behind."""
    assert soak.main(["--calls", str(CALLS)]) == 0
    assert f"{CALLS} calls" in capsys.readouterr().out


@pytest.mark.parametrize("leak", soak_readings.PLANTED)
def test_a_leak_is_named(leak: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A call in twenty that keeps something, or counts otherwise, is enough."""
    try:
        assert soak.main(["--calls", str(CALLS), "--planted", leak]) == 1
    finally:
        sdpa.reset_fallbacks()
    last = capsys.readouterr().out.splitlines()[-4:]
    assert any(line.startswith(f"{leak}: ") for line in last)
