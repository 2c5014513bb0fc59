"""Ask pip-audit whether what locks/ pins has known vulnerabilities.

Nothing is installed: it reads requirement files with hashes, which are made here.
It would leave out, without a word, what a marker is for another Python or system, and
it refuses two versions of a project; so markers are left off, and versions are told
apart.  A finding in the newest pinned version of a project fails, and so does a pin
that pip-audit did not look up.  Older versions are pinned because an older Python has
no newer, or to test with an old PyTorch or transformers: what is found in those is
printed.

Usage: python tools/audit.py [--dry-run]  (counts the pins, and asks no service)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import locked
from packaging.version import Version

COMMAND = [
    *(sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"),
    *("--progress-spinner", "off", "--strict"),
]
COUNTED = re.compile(r"would have audited (\d+) packages")


def rounds(pins: Iterable[locked.Pin]) -> list[list[locked.Pin]]:
    """Return pins without markers: the newest of each project, then older ones."""
    versions: dict[str, dict[Version, locked.Pin]] = defaultdict(dict)
    for pin in pins:
        plain = dataclasses.replace(pin, marker="")
        versions[pin.name][Version(pin.version)] = plain
    found: list[list[locked.Pin]] = []
    for name in sorted(versions):
        newest_first = sorted(versions[name].items(), reverse=True)
        for age, (_, pin) in enumerate(newest_first):
            if age == len(found):
                found.append([])
            found[age].append(pin)
    return found


def all_pins() -> list[locked.Pin]:
    """Return the pins of every lock."""
    paths = sorted(locked.LOCKS.glob("*.txt"))
    return [pin for path in paths for pin in locked.read(path.stem)]


def ask(pins: list[locked.Pin], *options: str) -> subprocess.CompletedProcess[str]:
    """Let pip-audit read pins."""
    with locked.requirement_file(pins) as path:
        command = [*COMMAND, *options, "--requirement", path]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def count(pins: list[locked.Pin]) -> None:
    """Fail unless pip-audit takes every pin for something to ask about."""
    done = ask(pins, "--dry-run")
    counted = COUNTED.search(done.stderr)
    if counted is None or int(counted[1]) != len(pins):
        raise SystemExit(f"pip-audit does not count {len(pins)} pins:\n{done.stderr}")


def findings(pins: list[locked.Pin]) -> list[str]:
    """Return a sentence for each vulnerability; fail unless each pin was looked up."""
    done = ask(pins, "--format", "json")
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise SystemExit(f"pip-audit gives no answer:\n{done.stderr}") from None
    if len([each for each in answers if "vulns" in each]) != len(pins):
        raise SystemExit(f"pip-audit looked up fewer than {len(pins)} pins")
    return [sentence(each, found) for each in answers for found in each["vulns"]]


def sentence(pin: dict[str, str], found: dict[str, Any]) -> str:
    """Return a line about a vulnerability of a pin, as pip-audit's JSON has both."""
    names = " ".join([found["id"], *found["aliases"]])
    mended = ", ".join(found["fix_versions"]) or "no version"
    return f"{pin['name']} {pin['version']}: {names}, mended in {mended}"


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if the newest pins have known vulnerabilities."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="ask no service")
    options = parser.parse_args(arguments)
    newest, *older = rounds(all_pins())
    aged = sum(map(len, older))
    words = f"{len(newest)} projects, and {aged} older versions of some"
    if options.dry_run:
        for pins in (newest, *older):
            count(pins)
        print(f"{words}: pip-audit counts all, and was told to ask no service")
        return 0
    failing = findings(newest)
    known = [each for pins in older for each in findings(pins)]
    print("\n".join(["older versions, pinned on purpose:", *known]))
    print("\n".join([f"{words}; found in the newest:", *(failing or ["nothing"])]))
    return int(bool(failing))


if __name__ == "__main__":
    sys.exit(main())
