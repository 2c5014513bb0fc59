"""Build under gcc's sanitizers, and run a core of the tests there.

Usage: python tools/sanitize.py [address] [thread] [--sample] [pytest's arguments]

Address takes undefined behaviour along.  What is planted comes first, and must be
found: a read out of bounds, an overflow, a data race.  A finding ends its process;
what it says goes to build/sanitize-*/report.*, and is shown at the end, because tests
that expect a process to fail would hide it.  With ``--sample`` the programs of
threads and processes, and every 25th of the other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = 25
PROGRAMS = "tests/api/test_processes.py"
TESTS = (
    "tests/attention/test_attention.py",
    "tests/attention/test_kvcache.py",
    "tests/attention/test_varlen.py",
    "tests/api/test_errors.py",
)
# Not under thread: in strict mode a kernel brings functions of the same names as the
# runtime's, which come first.
STRICT = (
    "tests/simulator/test_library.py",
    "tests/simulator/test_simulator.py",
    "tests/simulator/test_simulator_arguments.py",
    "tests/simulator/test_simulator_checks.py",
)
KINDS = {"address": "address,undefined", "thread": "thread"}
RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Python keeps much until its end.  Kernels run on small stacks of their own.
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # PyTorch, Python and kernels are not compiled for it: what they do is not watched,
    # and their children may make threads, which it does not watch either.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:die_after_fork=0:halt_on_error=1"
    ":exitcode=66:history_size=4",
}
PLANTED = {
    "address": {
        "heap-buffer-overflow": "return (new int[argument])[2 * argument];",
        "signed integer overflow": "return 0x7fffffff + argument;",
    },
    "thread": {
        "data race": "int x = argument; std::thread other([&] { ++x; }); ++x;"
        "other.join(); return x;",
    },
}


def flags(kind: str) -> list[str]:
    """Return what planted faults are compiled with, as CMakeLists.txt has it."""
    return [f"-fsanitize={KINDS[kind]}", "-fno-sanitize-recover=all", "-O1", "-g"]


def build(kind: str, folder: Path) -> None:
    """Build the libraries, for the PyTorch that this Python has."""
    configure: list[str | Path] = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DORCHARD_PRECOMPILE=ON"]
    # Instrumented code makes gcc warn of what it does not warn of otherwise.
    configure += ["-DCMAKE_UNITY_BUILD=ON", "-DORCHARD_WERROR=OFF"]
    configure += [
        f"-DORCHARD_SANITIZE={KINDS[kind]}",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1",
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder], check=True)


def library(name: str) -> str:
    """Return the path of a library that comes with gcc."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.check_output(command, text=True).strip()


def python(kind: str) -> list[str]:
    """Return a command that starts this Python under a sanitizer."""
    drawn = Path("/proc/sys/vm/mmap_rnd_bits")
    if kind == "thread" and int(drawn.read_text()) > 28:
        return ["setarch", "-R", sys.executable]  # gcc 12 has no room for more
    return [sys.executable]


def environment(kind: str, folder: Path) -> dict[str, str]:
    """Return what a process under a sanitizer needs.

    Python itself is not linked with the runtime, which must come first, and finds
    the function that throws only if the C++ library is there with it.
    """
    report = f":log_path={folder / 'report'}"
    return {
        **os.environ,
        **{name: text + report for name, text in OPTIONS.items()},
        "LD_PRELOAD": f"{library(RUNTIME[kind])} {library('libstdc++.so')}",
        "ORCHARD_LIBRARY_DIR": str(folder / "orchard_ops"),
        "PYTHONPATH": str(ROOT),
    }


def reports(folder: Path) -> str:
    """Return what sanitizers have said, and forget it."""
    found = sorted(folder.glob("report.*"))
    text = "\n".join(path.read_text(errors="replace") for path in found)
    for path in found:
        path.unlink()
    return text


def sees_what_is_planted(kind: str, folder: Path) -> bool:
    """Say whether a library with a fault ends Python with the right words."""
    for words, body in PLANTED[kind].items():
        source, planted = folder / "planted.cpp", folder / "planted.so"
        head = '#include <thread>\nextern "C" int planted(int argument) {'
        source.write_text(head + body + "}\n")
        out: list[str | Path] = ["-shared", "-fPIC", "-o", planted, source]
        subprocess.run(["g++", *flags(kind), *out], check=True)
        call = f"import ctypes\nctypes.CDLL({str(planted)!r}).planted(1)"
        done = subprocess.run(
            [*python(kind), "-c", call],
            env=environment(kind, folder),
            capture_output=True,
            text=True,
        )
        said = done.stderr + reports(folder)
        if done.returncode == 0 or words not in said:
            print(f"sanitize: a planted {words} was not found", file=sys.stderr)
            return False
        print(f"sanitize: a planted {words} was found", flush=True)
    return True


def run(kind: str, arguments: list[str]) -> bool:
    """Build, and run tests; say whether all passed and nothing was found."""
    folder = ROOT / "build" / f"sanitize-{kind}"
    build(kind, folder)
    reports(folder)
    if not sees_what_is_planted(kind, folder):
        return False
    # What UBSan says goes to standard error, and must not end with the process.
    command = [*python(kind), "-m", "pytest", "--capture=sys", "--timeout=600"]
    passed = [
        subprocess.run([*command, *words], cwd=ROOT, env=environment(kind, folder))
        for words in suites(kind, arguments)
    ]
    if found := reports(folder):
        print(found, file=sys.stderr)
    return not found and all(done.returncode == 0 for done in passed)


def suites(kind: str, arguments: list[str]) -> list[list[str]]:
    """Return the arguments of each run of pytest."""
    tests = TESTS if kind == "thread" else (*TESTS, *STRICT)
    if "--sample" in arguments:
        rest = [word for word in arguments if word != "--sample"]
        return [[PROGRAMS, *rest], [*tests, f"--every={SAMPLE}", *rest]]
    if any((ROOT / word.partition("::")[0]).exists() for word in arguments):
        return [arguments]
    return [[PROGRAMS, *tests, *arguments]]


def main() -> int:
    """Do what the command line asks; return the exit status."""
    arguments = sys.argv[1:]
    kinds = [word for word in arguments if word in KINDS] or list(KINDS)
    rest = [word for word in arguments if word not in KINDS]
    passed = [run(kind, rest) for kind in kinds]  # the second too if one fails
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
