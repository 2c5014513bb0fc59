"""The parts of the tree that are broken on purpose, and how each one is.

A kernel's text is swapped in the built library, which holds it as it is.  A source of
the operators is compiled again with the command of the build, and linked with the other
objects; a module lies in a copy of the package.  So each mutant costs a second or a
few, and none touches the tree.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mutant_rules
from mutant_rules import Mutant

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "liborchard_device.so"
BUILD = ROOT / "build" / "mutants"


class RefusedError(Exception):
    """A mutant is no program: it says nothing about the tests."""


@dataclass(frozen=True)
class Part:
    """Which files, the rules that break them, and the tests that may notice.

    The tests of a file are those of all the beginnings of its path that are named, the
    longest first, the cheapest first in each.
    """

    files: tuple[str, ...]
    rules: mutant_rules.Rules
    tests: dict[str, str]
    but: tuple[str, ...] = field(default=())

    def texts(self) -> dict[str, str]:
        """Return the texts of its files, by their path in the tree."""
        found = {path for pattern in self.files for path in ROOT.glob(pattern)}
        names = {path.relative_to(ROOT).as_posix(): path for path in found}
        return {
            name: names[name].read_text("utf-8")
            for name in sorted(names)
            if not name.startswith(self.but)
        }

    def tests_of(self, file: str) -> tuple[str, ...]:
        """Return the tests that a mutant of a file meets."""
        named = [start for start in self.tests if file.startswith(start)]
        chosen = (self.tests[start].split() for start in sorted(named, key=len)[::-1])
        return tuple(dict.fromkeys(test for tests in chosen for test in tests))


LIST = "metal/test_specialisations.py::test_the_list_is_what_the_plan_asks_for"
DECODING = "attention/test_kvcache.py attention/test_kvcache_bounds.py"
VALUES = "attention/test_dropout.py attention/test_attention.py"
PARTS = {
    "kernels": Part(
        ("kernels/*.metal", "kernels/tile/*.h"),
        mutant_rules.KERNELS,
        {
            "kernels/decode.metal": DECODING,
            "kernels/combine.metal": DECODING,
            **dict.fromkeys(
                ("kernels/backward", "kernels/forward", "kernels/tile"),
                "attention/test_dropout.py attention/test_strict.py "
                "attention/test_tiles.py attention/test_spill.py "
                "attention/test_determinism.py attention/test_attention.py "
                "attention/test_kvcache.py attention/test_partial.py "
                "attention/test_float16_range.py attention/test_long_sums.py "
                "perf/test_launches.py",
            ),
        },
        but=("kernels/layout_probe.metal",),
    ),
    "attention": Part(
        ("csrc/attention/*.cpp",),
        mutant_rules.HOST,
        {
            "csrc/attention": f"{VALUES} attention/test_kvcache.py "
            "attention/test_spill.py attention/test_tiles.py api/test_errors.py "
            "attention/test_gpu_classes.py attention/test_varlen.py",
            "csrc/attention/cut": "perf/test_launches.py",
            "csrc/attention/spill": "attention/test_spill.py perf/test_launches.py",
            "csrc/attention/problem": "api/test_errors.py attention/test_partial.py "
            "metal/test_specialisations.py::test_bfloat16_needs_a_newer_metal",
            "csrc/attention/survey": "metal/test_specialisations.py"
            "::test_the_survey_names_each_kernel",
            **dict.fromkeys(
                ("csrc/attention/kernels", "csrc/attention/specialisation"), LIST
            ),
            "csrc/attention/plan": f"{LIST} perf/test_launches.py api/test_tune.py",
            "csrc/attention/tiles": f"{LIST} attention/test_tiles.py "
            "attention/test_kvcache.py",
            "csrc/attention/choices": "api/test_tune.py",
            "csrc/attention/compiled": "attention/test_kvcache.py",
        },
    ),
    "torch": Part(
        ("csrc/torch/*.cpp",),
        mutant_rules.HOST,
        {
            "csrc/torch": f"api/test_errors.py api/test_short_operator.py {VALUES} "
            "attention/test_varlen.py api/test_citizenship.py",
            "csrc/torch/attention": "attention/test_partial.py",
            "csrc/torch/autograd": "attention/test_requires_grad_subsets.py "
            "attention/test_lse_gradient.py api/test_short_operator.py",
            "csrc/torch/bridge": "api/test_storage_bridge.py api/test_api.py",
            "csrc/torch/call": "api/test_errors.py attention/test_partial.py "
            "attention/test_kvcache.py",
            "csrc/torch/c": "attention/test_cpu.py",
            "csrc/torch/cpu_op": "attention/test_partial.py",
            "csrc/torch/decode": "attention/test_kvcache.py api/test_kvcache_checks.py",
            "csrc/torch/entry": "api/test_short_operator.py",
            "csrc/torch/keep": "attention/test_dropout.py",
            "csrc/torch/leading": "api/test_short_operator.py api/test_sdpa.py",
            "csrc/torch/ops": "api/test_tune.py api/test_verify.py",
            "csrc/torch/packed": "attention/test_varlen.py attention/test_fuzz.py",
            "csrc/torch/run": "api/test_logs.py",
            "csrc/torch/tuned": "api/test_tune.py",
            "csrc/torch/installation": "api/test_native.py",
        },
        but=("csrc/torch/mps_",),  # which only a Mac compiles
    ),
    "python": Part(
        ("orchard_ops/**/*.py",),
        mutant_rules.PYTHON,
        {
            "orchard_ops": "api/test_errors.py api/test_argument_types.py "
            "api/test_api.py attention/test_dropout.py attention/test_attention.py",
            "orchard_ops/_arguments": "api/test_kvcache_checks.py "
            "attention/test_kvcache.py attention/test_varlen.py "
            "attention/test_partial.py",
            "orchard_ops/_arguments/jagged": "api/test_jagged.py "
            "api/test_sdpa_citizenship.py",
            "orchard_ops/_arguments/kvcache": "api/test_kvcache_checks.py",
            "orchard_ops/_arguments/partial": "attention/test_partial.py",
            "orchard_ops/_arguments/philox": "attention/test_philox.py",
            "orchard_ops/_autocast": "api/test_autocast.py",
            "orchard_ops/_doctor": "api/test_cli.py",
            "orchard_ops/_flops": "api/test_flops.py",
            "orchard_ops/_functions": "attention/test_varlen.py "
            "attention/test_kvcache.py attention/test_partial.py",
            "orchard_ops/_functions/dense": "api/test_short_operator.py",
            "orchard_ops/_functions/partial": "attention/test_partial.py",
            "orchard_ops/_functions/kvcache": "api/test_kvcache_checks.py "
            "attention/test_kvcache.py",
            "orchard_ops/_functions/rotary": "api/test_rotary.py",
            "orchard_ops/_native": "api/test_native.py simulator/test_no_simulator.py",
            "orchard_ops/_record": "api/test_record.py",
            "orchard_ops/_scratch": "attention/test_spill.py",
            "orchard_ops/_sdpa_call": "api/test_sdpa.py api/test_sdpa_citizenship.py",
            "orchard_ops/_tune": "api/test_tune.py perf/test_search.py",
            "orchard_ops/cli": "api/test_cli.py api/test_record.py api/test_tune.py "
            "simulator/test_sim_cli.py",
            "orchard_ops/distributed": "distributed/test_layout.py "
            "distributed/test_faults.py distributed/test_traffic.py "
            "distributed/test_context.py distributed/test_context_parallel.py",
            "orchard_ops/flash_attn": "api/test_flash_attn_entries.py "
            "api/test_flash_attn_module.py api/test_flash_attn_fwd.py "
            "api/test_rotary.py",
            # Which asks for transformers: `nox -s mutants` installs it.
            "orchard_ops/integrations": "api/test_transformers.py",
            "orchard_ops/sdpa": "api/test_sdpa.py api/test_sdpa_citizenship.py "
            "api/test_tune.py",
            "orchard_ops/sim": "simulator/test_library.py simulator/test_metalsim.py "
            "simulator/test_simulator_arguments.py simulator/test_simulator.py "
            "simulator/test_plugin.py simulator/test_sim_cli.py",
            "orchard_ops/sim/_arguments": "simulator/test_front_end.py",
            "orchard_ops/storage": "api/test_storage_bridge.py",
        },
        # Programs that compute nothing a user trains with.
        but=("orchard_ops/_demo", "orchard_ops/_perf"),
    ),
}


def part_of(file: str) -> str:
    """Return the name of the part that a file belongs to."""
    return next(
        name
        for name, part in PARTS.items()
        if file.startswith(part.files[0].partition("*")[0])
    )


@cache
def libraries() -> Path:
    """Return the folder of the libraries that are tested."""
    if folder := os.environ.get("ORCHARD_LIBRARY_DIR"):
        return Path(folder).resolve()
    import importlib.util

    # Not imported: the tests import it, broken.
    found = importlib.util.find_spec("orchard_ops")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def write_libraries(folder: Path, text: str, changed: str) -> None:
    """Copy the libraries; in them, a kernel's text is another one."""
    _copy_libraries(folder, LIBRARY)
    held = (libraries() / LIBRARY).read_bytes()
    if held.count(text.encode()) != 1:
        raise SystemExit(f"{LIBRARY} holds other kernels than kernels/: build it again")
    (folder / LIBRARY).write_bytes(held.replace(text.encode(), changed.encode()))


def _copy_libraries(folder: Path, but: str) -> None:
    source = libraries()
    for path in (*source.glob("*.so"), source / "_build_info.py"):
        # The stand-in's libraries say nothing of their build.
        if path.name != but and path.exists():
            shutil.copy(path, folder)


def _operators() -> str:
    return next(libraries().glob("_C.torch*.so")).name


def prepare_build() -> None:
    """Build the operators without optimisation, which compiles a mutant sooner."""
    options = ("-DORCHARD_PRECOMPILE=ON", "-DORCHARD_WERROR=OFF",
               "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
               f"-DPython_EXECUTABLE={sys.executable}")  # fmt: skip
    configure = ("cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *options)
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    target = f"orchard_ops/{_operators()}"
    subprocess.run(("cmake", "--build", str(BUILD), "--target", target), check=True)


@cache
def _commands() -> tuple[list[str], ...]:
    """Return the commands that make the operators, the link last."""
    done = subprocess.run(
        ("ninja", "-C", str(BUILD), "-t", "commands", f"orchard_ops/{_operators()}"),
        check=True, text=True, capture_output=True,
    )  # fmt: skip
    # In double quotes shlex leaves the backslash of \$ORIGIN, which a shell takes away.
    split = (shlex.split(line) for line in done.stdout.splitlines())
    return tuple([word.replace("\\$", "$") for word in words] for words in split)


def _compile(source: Path, mutant: Mutant, folder: Path) -> None:
    """Compile a file and link the operators with it.

    Raises:
        RefusedError: the compiler or the linker says no.
    """
    named = str(ROOT / mutant.file)
    command = next(words for words in _commands() if words[-1] == named)
    made = command[command.index("-o") + 1]
    words = [*command[: command.index("-MD")], "-w", "-c", str(source)]
    words += ["-iquote", str(Path(named).parent), "-o", f"{source}.o"]
    link = [f"{source}.o" if word == made else word for word in _commands()[-1]]
    link = [word for word in link if word not in (":", "&&")]
    link[link.index("-o") + 1] = str(folder / _operators())
    for each in (words, link):
        done = subprocess.run(each, cwd=BUILD, capture_output=True, check=False)
        if done.returncode:
            raise RefusedError


def write_broken(mutant: Mutant, folder: Path) -> dict[str, str]:
    """Write what a mutant changes into a folder; return the environment for tests.

    Raises:
        RefusedError: the mutant is no program.
    """
    part = part_of(mutant.file)
    text = PARTS[part].texts()[mutant.file]
    if part == "kernels":
        write_libraries(folder, text, mutant_rules.of_same_length(text, mutant))
        return {"ORCHARD_LIBRARY_DIR": str(folder)}
    changed = mutant_rules.mutated(text, mutant)
    if part == "python":
        try:
            compile(changed, mutant.file, "exec")
        except SyntaxError as error:
            raise RefusedError from error
        package = folder / "orchard_ops"
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / "orchard_ops", package, ignore=ignored)
        (folder / mutant.file).write_text(changed, "utf-8")
        return {"ORCHARD_LIBRARY_DIR": str(libraries()), "PYTHONPATH": str(folder)}
    source = folder / "changed.cpp"
    source.write_text(changed, "utf-8")
    _copy_libraries(folder, _operators())
    _compile(source, mutant, folder)
    # What the planner's tests compile, they compile themselves.
    broken = f"{mutant.file}={source}"
    return {"ORCHARD_LIBRARY_DIR": str(folder), "ORCHARD_TEST_BROKEN": broken}
