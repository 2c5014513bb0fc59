"""Every command that README, CONTRIBUTING or docs name runs in CI or in a test.

Each is held to a line of CI, in its shortest form, or to a test that runs the same
code; a command that nothing runs fails here until it is given one.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

from orchard_ops import _child

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
CI = ".ci/run"
HOSTED = ".github/workflows/tests.yml"
SESSIONS = "noxfile.py"
# By how a command begins, the longest first: a file, and what runs the command there.
RUN_BY = {
    ".ci/run": (HOSTED, "- run: .ci/run"),
    ".nox/test-torch24/bin/orchard-ops doctor": (
        "tests/api/test_cli.py",
        "def test_doctor_refuses_what_is_no_test_result",
    ),
    "cmake -S . -B build/": (SESSIONS, "build-dir=build/"),
    "cmake --build build/": (SESSIONS, "build-dir=build/"),
    "conda build": ("tests/packaging/test_conda.py", "def test_a_real_conda_builds"),
    "conda create": (
        "tests/packaging/test_conda.py",
        "def test_every_variant_can_be_solved",
    ),
    "conda run": ("recipe/recipe.yaml", "orchard-ops doctor"),
    "nix build --rebuild": ("packaging/nix/flake.py", '"--rebuild"'),
    "nix build": ("packaging/nix/flake.py", '"build"'),
    "nix develop": ("packaging/nix/flake.py", "develop"),
    "nix flake check": ("packaging/nix/flake.py", '"flake", "check"'),
    "nix flake lock": ("tests/packaging/test_nix.py", "def test_notices_a_lock"),
    "nix fmt": ("tests/packaging/test_nix.py", "def test_names_a_misformatted_line"),
    "nix run": ("packaging/nix/flake.py", "apps"),
    "nox": (CI, '"$environment/bin/nox" --non-interactive'),
    "nox -l": (CI, "noxfile.py --list"),
    "nox -s test-torch": (SESSIONS, 'f"test-{name}" for name in ENTRIES'),
    "nox -r -s test-torch": (SESSIONS, 'f"test-{name}" for name in ENTRIES'),
    "nox -R -s test-torch": (SESSIONS, 'f"test-{name}" for name in ENTRIES'),
    'nox -s "test-opinfo': (
        "tests/simulator/test_opinfo.py",
        "def test_operator_agrees",
    ),
    "nox -s test-transformers": (CI, "test-transformers(release='newest')"),
    "nox -s audit": (CI, "session audit -- --dry-run"),
    "nox -s bench": (CI, "session bench -- --suite memory"),
    "nox -s compile-macos": (CI, "session compile-macos"),
    "nox -s conda": (CI, "session conda -- --sample"),
    "nox -s cuda": (
        "tests/metal/test_cuda_check.py",
        "def test_says_why_it_cannot_run",
    ),
    "nox -s demo": (CI, "session demo -- --steps 2"),
    "nox -s docs": (CI, "session docs"),
    "nox -s drift": (CI, "session drift -- --steps 10"),
    "nox -s fuzz": (CI, "session fuzz -- --minutes 1 --seed 1"),
    "nox -s kernels": (CI, "session kernels -- -k probe"),
    "nox -s lint": (SESSIONS, 'nox.options.sessions = ["lint"'),
    "nox -s mutants": (CI, "session mutants -- --sample"),
    "nox -s nix": (CI, "session nix -- --evaluate"),
    "nox -s nix-wheels": (
        "tests/packaging/test_nix.py",
        "def test_verifies_every_hash",
    ),
    "nox -s package": (CI, "session package -- sdist"),
    "nox -s lock": ("tools/check_locks.py", "def requirement_problems"),
    "nox -s reproduce": (CI, "session reproduce -- sdist wheel"),
    "nox -s sanitize": (CI, "session sanitize -- thread --sample"),
    "nox -s public-kernels": (
        "tests/simulator/test_public_kernels.py",
        "def test_both_tables",
    ),
    "nox -s release": (CI, "session release -- --sample"),
    "nox -s soak": (CI, "session soak -- --calls 2000"),
    "nox -s test-mps-standin": (CI, "session test-mps-standin -- --sample"),
    "nox -s tune": (CI, "session tune -- --check"),
    "nox -s smoke": (HOSTED, "nox -s smoke"),
    "nox -s wheels-linux": (HOSTED, "nox -s wheels-linux"),
    "nox -s wheels-macos": (CI, "session wheels-macos -- --sample"),
    "orchard-ops tune": (
        "tests/api/test_tune.py",
        "def test_the_command_tunes_shows_exports_and_resets",
    ),
    "orchard-ops bench": ("tests/perf/test_bench.py", "def test_bench_reports"),
    "orchard-ops doctor": (
        "tests/api/test_cli.py",
        "def test_doctor_writes_one_report",
    ),
    "orchard-ops sim check": (
        "tests/simulator/test_sim_cli.py",
        "def test_check_tells_right_from_wrong",
    ),
    "orchard-ops sim list": (
        "tests/simulator/test_sim_cli.py",
        "def test_list_prints_the_names",
    ),
    "orchard-ops sim run": (
        "tests/simulator/test_sim_cli.py",
        "def test_run_computes",
    ),
    "orchard-ops replay": ("tests/api/test_record.py", "def test_a_replay_writes"),
    "pip install": (SESSIONS, "built_wheel(session, name)"),
    "pip check": (SESSIONS, '"pip", "check"'),
    "pip wheel": (SESSIONS, '"pip", "wheel"'),
    "pre-commit install": (".pre-commit-config.yaml", "ruff"),
    "pytest -p orchard_ops.sim.plugin": (
        "tests/simulator/test_plugin.py",
        '"-p", "orchard_ops.sim.plugin"',
    ),
    "pytest tests": (SESSIONS, '"pytest", *in_processes()'),
    'python -c "import': (
        "tests/packaging/test_commands.py",
        "def test_one_liners_run",
    ),
    "python examples/": (
        "tests/api/test_examples.py",
        "def test_every_example_is_run",
    ),
    "python -m torch.distributed.run": (
        "tests/distributed/test_pages.py",
        "def test_the_example_runs",
    ),
    "python -m venv": (CI, "-m venv"),
    "python recipe/smoke.py": ("packaging/conda/environments.py", '"smoke.py"'),
    "python tests/simulator/public_kernels.py": (
        "tests/simulator/test_public_kernels.py",
        "def test_both_tables",
    ),
    "python tests/metal/cuda": ("tests/metal/test_cuda_check.py", "def test_says_why"),
    "python tests/metal/specialisations": (
        "tests/metal/test_specialisations.py",
        "listed()",
    ),
    "python packaging conda.variants": ("tools/check_versions.py", "variant_files"),
    "python packaging compare": (
        "tests/packaging/test_reproduce.py",
        "def test_a_difference_is_named",
    ),
    "python tools/locked.py": (CI, "tools/locked.py nox"),
    "python packaging hub": (SESSIONS, '"packaging", "hub"'),
    "python tools/cpu_torch.py": (SESSIONS, '"cpu_torch.py"'),
    "python tools/stubs.py": ("tests/api/test_stubs.py", "stubs.stub(library)"),
}
PROGRAMS = r"(?:nox|orchard-ops|nix|conda|pip|pytest|cmake|pre-commit|python) "
COMMAND = re.compile(rf"nox$|\.ci/run|\.nox/\S+/bin/|{PROGRAMS}")


def commands(text: str) -> set[str]:
    """Return the commands in a page: lines of its blocks, and spans of code."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    lines = [line for block in fence.findall(text) for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", fence.sub("", text))
    lines += [" ".join(span.split()) for span in spans]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\s#", line)]
    without = (re.sub(r"^(?:\w+=\S+ )+", "", part) for part in parts)
    return {part for part in without if COMMAND.match(part)}


def runner(command: str) -> str | None:
    """Return the longest entry that a command begins with."""
    fitting = [start for start in RUN_BY if command.startswith(start)]
    # `nox` itself is a command, and the beginning of others that need their own.
    fitting = [start for start in fitting if start != "nox" or command == "nox"]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_run_somewhere(page: Path) -> None:
    """A command that is named has an entry."""
    text = page.read_text(encoding="utf-8")
    assert [each for each in sorted(commands(text)) if runner(each) is None] == []


@pytest.mark.parametrize("start", RUN_BY)
def test_what_runs_it_is_there(start: str) -> None:
    """The line of CI or the test exists, and some page names the command."""
    file, words = RUN_BY[start]
    assert words in (ROOT / file).read_text(encoding="utf-8")
    named = {each for page in PAGES for each in commands(page.read_text("utf-8"))}
    assert start in {runner(each) for each in named}


def test_commands_are_found_in_blocks_and_spans() -> None:
    """Blocks, spans over two lines, variables before a command; no other code."""
    page = (
        "a `nox -s\nlint` b `x = 1`\n```sh\nA=1 pytest tests  # why\nls && nox\n```\n"
    )
    assert commands(page) == {"nox -s lint", "pytest tests", "nox"}
    assert runner("nox -s unheard-of") is None


def test_one_liners_run() -> None:
    """Each ``python -c`` of the pages ends well."""
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    lines = {each for page in pages for each in commands(page) if "python -c" in each}
    assert len(lines) >= 3
    for line in lines:
        _, _, text = shlex.split(line)
        subprocess.run(_child.python(text), check=True, capture_output=True)


def test_every_session_is_named() -> None:
    """A session of noxfile.py stands in CONTRIBUTING.md."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    named = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for quoted, plain in re.findall(
        r'^@nox\.session(?:\(name="([\w-]+)".*)?.*\n(?:@.*\n)*def (\w+)', text, re.M
    ):
        assert re.search(rf'nox -s "?{quoted or plain}\b', named), quoted or plain
