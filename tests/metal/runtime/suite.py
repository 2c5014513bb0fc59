"""Run the suite as ``ORCHARD_TEST_DEVICE=mps`` does on a Mac, over the stand-in.

Usage: python tests/metal/runtime/suite.py [--sample] [pytest's arguments]

With ``--sample`` every 40th test.  What is left out is listed here, with its reason.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import standin_build

from orchard_ops import _native
from orchard_ops._child import python

ROOT = Path(__file__).resolve().parent.parent.parent.parent
TESTS = ROOT / "tests"
SAMPLE = 40
# What runs nothing on the device, or in a session of its own.
ELSEWHERE = {
    "packaging": "packages and pages",
    "api/test_native.py": "loads the package's own libraries",
    "api/test_transformers.py": "has a session of its own",
    "attention/test_cpu.py": "is about the CPU",
    "attention/test_feature_tables.py": "reads pages",
    "metal/test_cuda_check.py": "is about another GPU",
    "metal/test_metal_rules.py": "reads kernels",
    "metal/test_metal_runtime.py": "is a program of the stand-in's own",
    "metal/test_mps_key.py": "runs parts of this on another PyTorch",
    "metal/test_specialisations.py": "compiles kernels and runs none",
    "simulator/test_no_simulator.py": "plays a Mac itself",
}
# Tests that a Mac runs and the stand-in cannot.
_LONG = "the simulator takes minutes for what a GPU does in an instant"
_FEATURES = (
    *("plain", "causal", "softcap", "alibi", "sinks", "dropout", "key-padding"),
    *("bias-of-keys", "packed"),
)
_NO_MATRIX = "attention/test_memory.py::test_no_matrix_of_scores_is_allocated_on_mps"
_CHOICE = "under torch.func PyTorch asks a table that has no MPS on Linux"
_STORAGE = "PyTorch's Linux build makes no storage on mps to save from or load into"
_SDPA = "api/test_sdpa_citizenship.py::test"
LACKING = {
    "api/test_sdpa.py::test_transforms_are_left_to_pytorch": _CHOICE,
    f"{_SDPA}_vmap_and_grad_of_the_function": _CHOICE,
    f"{_SDPA}_torchscript[device-script]": _STORAGE,
    f"{_SDPA}_torchscript[device-trace]": _STORAGE,
    f"{_SDPA}_modules_are_copied_and_pickled": _STORAGE,
    "api/test_cli.py::test_doctor_writes_one_report": _LONG,
    **{f"{_NO_MATRIX}[{name}]": _LONG for name in _FEATURES},
}


def files() -> list[str]:
    """Return the files of tests of the device."""
    left_out = {TESTS / name for name in ELSEWHERE}
    missing = [str(path) for path in left_out if not path.exists()]
    assert not missing, f"no such tests: {missing}"
    return [
        str(path.relative_to(ROOT))
        for path in sorted(TESTS.rglob("test_*.py"))
        if not left_out.intersection((path, *path.parents))
    ]


def main() -> int:
    """Build the stand-in, run what is asked for; return pytest's exit status."""
    arguments = sys.argv[1:]
    if "--sample" in arguments:
        arguments[arguments.index("--sample")] = f"--every={SAMPLE}"
    chosen = any(argument.startswith("tests/") for argument in arguments)
    command = python(standin_build.PYTEST, *arguments, *([] if chosen else files()))
    for test in LACKING:
        command.append(f"--deselect=tests/{test}")
    environment = standin_build.environment(standin_build.build_for_torch())
    # Its simulator replays what is recorded; the stand-in's libraries have no module.
    environment["ORCHARD_TEST_REPLAY_DIR"] = str(_native.library_dir())
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
