"""Every command of the project: ``nox -l`` lists them.

``pip install nox`` is all a user installs by hand.  Each session makes its own
environment, puts a CPU-only PyTorch into it (tools/cpu_torch.py), builds and
installs the package as a user would, and works on the installed copy.  All that it
installs besides comes from locks/ (tools/locked.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "cmake")]
import locked  # noqa: E402
import source_date  # noqa: E402

nox.needs_version = ">=2024.10.9"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
VERSIONS = nox.project.load_toml(ROOT / "versions.toml")
MATRIX = VERSIONS["torch"]
ENTRIES = {**MATRIX, **VERSIONS["between"]}
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
CMAKE = ("cmake>=3.24", "ninja>=1.10")
BUILD_TOOLS = [*PROJECT["build-system"]["requires"], *CMAKE]
EXTRAS = PROJECT["project"]["optional-dependencies"]
FORMATTED = (".cpp", ".h", ".metal")
DEMO_TORCH = VERSIONS["package"]["default"]
OLDEST_TORCH, *_, NEWEST_TORCH = MATRIX
RUNNING = "{}.{}".format(*sys.version_info)
# What a session of tools/ alone may run on: they read TOML.
TOOL_PYTHONS = ("3.11", "3.12", "3.13")

nox.options.sessions = ["lint", *(f"test-{name}" for name in ENTRIES)]
nox.options.error_on_missing_interpreters = True


def runs(version: str) -> bool:
    """Say whether ``python<version>`` is on the path and works."""
    found = shutil.which(f"python{version}")
    if found is None:
        return False
    # A version manager's placeholder exists, and fails.
    probe = subprocess.run([found, "--version"], capture_output=True, check=False)
    return probe.returncode == 0


def command_of(version: str) -> str | None:
    """Return a command that starts a Python; None where there is none."""
    if version == RUNNING:
        return sys.executable
    return f"python{version}" if runs(version) else None


def interpreter(name: str, also: Sequence[str] | None = None) -> str | None:
    """Choose the Python for a PyTorch; None means the one that runs nox.

    It is that of the matrix if there is one, else one of ``also``, which are by
    default the other Pythons that the PyTorch has wheels for.
    """
    wanted = ENTRIES[name]["python"]
    allowed = ENTRIES[name]["pythons"] if also is None else also
    if wanted == RUNNING:
        return None
    if runs(wanted):
        return str(wanted)
    if RUNNING in allowed:
        return None
    return next((version for version in allowed if runs(version)), str(wanted))


def install(session: nox.Session, *requirements: str, lock: str = "") -> None:
    """Install requirements and all that they need, as locks/ has them."""
    flat = locked.flat(requirements, EXTRAS)
    found = locked.chosen(flat, lock or locked.ENVIRONMENT)
    with locked.requirement_file(found) as path:
        session.install(*locked.OPTIONS, "--requirement", path)


def install_wheel(session: nox.Session, wheel: Path) -> None:
    """Install a wheel of ours; it replaces what an earlier run installed."""
    session.install("--force-reinstall", "--no-deps", "--no-index", str(wheel))


def install_torch(session: nox.Session, name: str) -> None:
    """Put the PyTorch of a matrix entry into the session's environment."""
    entry = ENTRIES[name]
    session.run(
        *("python", ROOT / "tools" / "cpu_torch.py", entry["version"]),
        *("--python", session.virtualenv.bin + "/python", entry["numpy"]),
        silent=False,
    )


def content() -> str:
    """Return a digest of all that a wheel is made from."""
    names = (
        "CMakeLists.txt",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "versions.toml",
    )
    files = [ROOT / name for name in names]
    for folder in ("cmake", "csrc", "kernels", "orchard_ops"):
        files += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    # A wheel of another commit says another time.
    digest = hashlib.sha256(str(source_date.epoch()).encode())
    for path in sorted(path for path in files if path.suffix != ".pyc"):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def built_wheel(session: nox.Session, name: str) -> Path:
    """Return the wheel for a PyTorch; sessions that want the same share it."""
    python = session.run(
        *("python", "-c", "import sys; print(sys.implementation.cache_tag)"),
        silent=True,
    )
    wheels = ROOT / "build" / "wheels" / f"{name}-{str(python).strip()}"
    place = wheels / content()
    if not any(place.glob("*.whl")):
        shutil.rmtree(wheels, ignore_errors=True)
        install(session, *BUILD_TOOLS)
        session.log("Building: a few minutes the first time")
        session.run(
            *("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "."),
            *("--no-build-isolation", "--wheel-dir", str(place)),
            f"--config-settings=build-dir=build/{name}",
            "--config-settings=cmake.define.ORCHARD_WERROR=ON",
        )
    return next(place.glob("*.whl"))


def install_package(session: nox.Session, name: str, extra: str) -> None:
    """Build and install the package for a PyTorch; reuse old object files."""
    install_torch(session, name)
    install_wheel(session, built_wheel(session, name))
    install(session, f"orchard-ops[{extra}]", ENTRIES[name]["numpy"])
    check_environment(session)


def check_environment(session: nox.Session) -> None:
    """Fail where what the locks pin does not satisfy what it is installed with."""
    if sys.platform == "linux":  # PyTorch 2.1's macOS wheel names a wrong platform.
        session.run("python", "-m", "pip", "check", silent=True)


def kernel_cache() -> dict[str, str]:
    """Return the setting that makes sessions share compiled kernels."""
    folder = CACHE / "orchard-ops-dev" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {"ORCHARD_CACHE_DIR": os.environ.get("ORCHARD_CACHE_DIR", str(folder))}


def one_thread() -> dict[str, str]:
    """Return the settings of what computes: shared kernels, a thread a process.

    Tests compile many kernels, and run each for a moment.
    """
    return {**kernel_cache(), "OMP_NUM_THREADS": "1", "ORCHARD_SIM_UNROLL": "0"}


def run_tool(session: nox.Session, tool: str, *options: str, extra: str) -> None:
    """Install the package, and run a program of tools/ on the installed copy."""
    install_package(session, DEMO_TORCH, extra)
    command = ("python", f"tools/{tool}.py", *options, *session.posargs)
    session.run(*command, env=one_thread())


def in_processes() -> tuple[str, ...]:
    """Return pytest's arguments that spread the tests over processes."""
    if os.environ.get("ORCHARD_TEST_DEVICE") != "mps":
        # Two processes fill two cores; more threads in each only get in the way.
        # Tests of an xdist_group share what their process has compiled.
        return ("-n", "2", "--dist", "loadgroup", "--timeout", "600")
    # On a Mac the tests wait for compilers and for the GPU in turn, and every M1 has
    # four fast cores.  One process takes a whole file, whose tests share pipelines,
    # which another process would compile again.
    return ("-n", "4", "--dist", "loadfile", "--timeout", "600")


def tests_of(name: str, arguments: Sequence[str]) -> Sequence[str]:
    """Return the tests that an entry's session runs unless its arguments name some."""
    if any((ROOT / word.partition("::")[0]).exists() for word in arguments):
        return ()
    return [word for key in ENTRIES[name]["tests"] for word in VERSIONS["tests"][key]]


def test(session: nox.Session, name: str) -> None:
    """Build for one PyTorch and run its tests; arguments go to pytest."""
    install_package(session, name, "test")
    session.run(
        *("pytest", *in_processes(), *tests_of(name, session.posargs)),
        *session.posargs,
        env=one_thread(),
    )
    if os.environ.get("ORCHARD_DISCARD"):  # .ci/run never comes back to it.
        shutil.rmtree(session.virtualenv.location)


def add_test_session(name: str) -> None:
    """Register the test session of one entry of the matrix."""

    def run(session: nox.Session) -> None:
        test(session, name)

    minor = ENTRIES[name]["version"].rpartition(".")[0]
    run.__doc__ = (
        f"Build against PyTorch {minor} and run the tests (pytest arguments after --)."
    )
    nox.session(run, name=f"test-{name}", python=interpreter(name))


for entry in ENTRIES:
    add_test_session(entry)


@nox.session(name="test-transformers", python=interpreter(NEWEST_TORCH))
@nox.parametrize("release", ["newest", "last4", "oldest"])
def test_transformers(session: nox.Session, release: str) -> None:
    """Train and generate with models of three releases of transformers."""
    entry = VERSIONS["transformers"][release]
    install_package(session, entry["torch"], "test")
    numpy = MATRIX[entry["torch"]]["numpy"]
    install(session, "transformers", numpy, lock=f"transformers-{release}")
    check_environment(session)
    session.run(
        *("pytest", "-n", "2", "--timeout", "600", "tests/api/test_transformers.py"),
        *("tests/api/test_examples.py", *session.posargs),
        env=one_thread(),
    )


@nox.session(name="test-mps-standin", python=interpreter(DEMO_TORCH))
def test_mps_standin(session: nox.Session) -> None:
    """Run the tests as ORCHARD_TEST_DEVICE=mps does, on Linux (--sample: a few)."""
    install_package(session, DEMO_TORCH, "test")
    session.run(
        *("python", "tests/metal/runtime/suite.py", "-n", "2", "--timeout", "600"),
        *session.posargs,
        env=one_thread(),
    )


@nox.session(name="test-opinfo", python=interpreter(NEWEST_TORCH))
@nox.parametrize("torch", list(MATRIX), ids=list(MATRIX))
def test_opinfo(session: nox.Session, torch: str) -> None:
    """Compare every operator of PyTorch's tables on metalsim with the CPU."""
    install_package(session, torch, "test")
    session.run(
        *("pytest", "-n", "2", "--timeout", "600", "tests/simulator/test_opinfo.py"),
        *session.posargs,
        env={"ORCHARD_ALL_OPERATORS": "1", "OMP_NUM_THREADS": "1"},
    )


@nox.session(python=interpreter(DEMO_TORCH))
def demo(session: nox.Session) -> None:
    """Train a small GPT through the Metal kernels, beside PyTorch on the CPU."""
    install_package(session, DEMO_TORCH, "demo")
    session.run("orchard-ops", "train", *session.posargs, env=kernel_cache())


@nox.session(python=interpreter(NEWEST_TORCH))
def kernels(session: nox.Session) -> None:
    """Check every kernel by Metal's rules, every tile by values, not samples."""
    install_package(session, NEWEST_TORCH, "test")
    whole = {**kernel_cache(), "ORCHARD_ALL_KERNELS": "1"}
    tests = ("tests/metal/test_specialisations.py", "tests/attention/test_tiles.py")
    session.run("pytest", "-n", "2", *tests, *session.posargs, env=whole)


@nox.session(python=interpreter(NEWEST_TORCH))
def bench(session: nox.Session) -> None:
    """Count kernel work, predict times, time the host (arguments: --full, --json)."""
    install_package(session, NEWEST_TORCH, "bench")
    session.run("orchard-ops", "bench", *session.posargs, env=kernel_cache())


@nox.session(python=interpreter(DEMO_TORCH))
def mutants(session: nox.Session) -> None:
    """Break lines: which tests notice (--part, --count, --seed, --jobs; --sample)?"""
    install_package(session, DEMO_TORCH, "test")
    if not {"attention", "torch", "--again"}.isdisjoint(session.posargs):
        install(session, *BUILD_TOOLS)  # C++ is compiled again for each mutant.
    if not {"python", "--again"}.isdisjoint(session.posargs):
        numpy = ENTRIES[DEMO_TORCH]["numpy"]
        install(session, "transformers", numpy, lock="transformers-last4")
    session.run("python", "tools/mutants.py", *session.posargs, env=one_thread())


@nox.session(python=interpreter(DEMO_TORCH))
def fuzz(session: nox.Session) -> None:
    """Draw problems, legal and illegal, for some time (--minutes; --every value)."""
    corpus = str(CACHE / "orchard-ops-dev" / "corpus")
    run_tool(session, "fuzzing", "--corpus", corpus, extra="test")


@nox.session(python=interpreter(DEMO_TORCH))
def soak(session: nox.Session) -> None:
    """Mix 100,000 small calls: nothing may grow (--calls; --planted: a leak)."""
    run_tool(session, "soak", extra="sim")


@nox.session(python=interpreter(DEMO_TORCH))
def drift(session: nox.Session) -> None:
    """Train in three dtypes, ours beside PyTorch and float64 (--steps: 1,000)."""
    run_tool(session, "drift", extra="sim")


@nox.session(python=interpreter(DEMO_TORCH))
def sanitize(session: nox.Session) -> None:
    """Run tests under sanitizers of gcc (address, thread: one; --sample: some)."""
    # Not the package: the tool builds its libraries, in build/sanitize-*.
    install_torch(session, DEMO_TORCH)
    numpy = MATRIX[DEMO_TORCH]["numpy"]
    install(session, *BUILD_TOOLS, *EXTRAS["sim"], *EXTRAS["test"][1:], numpy)
    session.run("python", "tools/sanitize.py", *session.posargs, env=one_thread())


@nox.session
def tune(session: nox.Session) -> None:
    """Choose the tiles of csrc/attention/tiles.cpp by the cost model (--check)."""
    session.run("python", "tools/tune.py", *session.posargs)


@nox.session(name="wheels-macos", python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def wheels_macos(session: nox.Session) -> None:
    """Make and prove the macOS wheel, on any machine (--torch, --sample: for some)."""
    install(session, "ziglang", *CMAKE, *PROJECT["dependency-groups"]["wheels"])
    session.run("python", "packaging", "macos.wheels", "--werror", *session.posargs)
    session.run("twine", "check", "--strict", *wheels_in("macos"))


@nox.session(name="wheels-linux", python=interpreter(DEMO_TORCH, also=()))
def wheels_linux(session: nox.Session) -> None:
    """Make the Linux wheel of this Python, for every PyTorch (--torch: not for all)."""
    install(session, *BUILD_TOOLS, *PROJECT["dependency-groups"]["wheels"])
    session.run("python", "packaging", "linux.wheels", *session.posargs)
    session.run("twine", "check", "--strict", *wheels_in("linux"))


def wheels_in(system: str) -> list[str]:
    """Return the wheels that lie in dist/."""
    return [str(path) for path in (ROOT / "dist" / system).glob("*.whl")]


@nox.session(python=interpreter(DEMO_TORCH, also=()))
def smoke(session: nox.Session) -> None:
    """Use the Linux wheel beside each PyTorch it is for (--torch 2.7; --no-doctor)."""
    if not wheels_in("linux"):
        session.error("dist/linux holds no wheel: nox -s wheels-linux makes it")
    install(session, *EXTRAS["sim"], *EXTRAS["cli"])
    session.run(
        "python", "packaging", "linux.smoke", *session.posargs, env=kernel_cache()
    )


@nox.session(name="compile-macos", python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def compile_macos(session: nox.Session) -> None:
    """Compile all of csrc/ for macOS, warnings as errors (--torch, --sample: less)."""
    install(session, "ziglang", *CMAKE, "pybind11")
    session.run("python", "packaging", "macos.compile", *session.posargs)
    wheels = VERSIONS["macos"]["compile"]
    session.run("python", "packaging", "macos.mps_operators", "--check", *wheels)


@nox.session(python=interpreter(DEMO_TORCH))
def package(session: nox.Session) -> None:
    """Make the sdist and a wheel; check both, test it (torch21; sdist: that alone)."""
    name = session.posargs[0] if session.posargs else DEMO_TORCH
    install(session, *BUILD_TOOLS, "build")
    out = Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--no-isolation", "-o", str(out))
    sdist = next(out.glob("*.tar.gz"))
    session.run("python", "packaging", "contents", str(sdist))
    if name == "sdist":
        return
    install_torch(session, name)
    install(session, MATRIX[name]["numpy"])
    session.log("Building a wheel from it: a few minutes")
    wheel = ("python", "-m", "pip", "wheel", "--no-build-isolation", "--no-deps")
    # create_tmp made pip build inside this tree: the check looks for its path.
    session.run(*wheel, "--quiet", "--wheel-dir", str(out), str(sdist))
    session.run("python", "packaging", "contents", *map(str, out.glob("*.whl")))
    install_wheel(session, next(out.glob("*.whl")))
    install(session, "orchard-ops[sim,cli]", MATRIX[name]["numpy"])
    check_environment(session)
    with session.chdir(out):  # Not where the source folder would be imported.
        session.run("orchard-ops", "doctor", env=kernel_cache())
        session.run("python", ROOT / "recipe" / "smoke.py", env=kernel_cache())


@nox.session(python=interpreter(DEMO_TORCH, also=()))
def reproduce(session: nox.Session) -> None:
    """Build packages twice and compare (sdist, wheel, linux, macos, conda, nix)."""
    groups = PROJECT["dependency-groups"]
    install_torch(session, DEMO_TORCH)
    first = built_wheel(session, DEMO_TORCH)
    # As in the session nix: what the flake takes from nixpkgs is taken from here.
    tools = (*groups["conda"], *groups["reproduce"], *groups["wheels"], "nox", "ruff")
    extras = (*EXTRAS["cli"], *EXTRAS["test"][1:], MATRIX[OLDEST_TORCH]["numpy"])
    install(session, *BUILD_TOOLS, "build", "ziglang", *tools, *extras)
    session.run("pytest", "--noconftest", "-q", "tests/packaging/test_reproduce.py")
    session.run(
        *("python", "packaging", "reproduce", *session.posargs, "--wheel", str(first))
    )


# macOS packages are built with the one Python that their variants name.
@nox.session(python=interpreter(DEMO_TORCH, also=()))
def conda(session: nox.Session) -> None:
    """Build, install, test all conda packages offline (--torch 2.4: one; --sample)."""
    install(session, *PROJECT["dependency-groups"]["conda"], "pytest")
    session.run("pytest", "--noconftest", "-q", "tests/packaging/test_conda.py")
    session.run(
        "python", "packaging", "conda.packages", *session.posargs, env=kernel_cache()
    )


# The conda packages are built with the one Python that their variants name.
@nox.session(python=interpreter(DEMO_TORCH, also=()))
def release(session: nox.Session) -> None:
    """Build and check all that is published, into dist/ (--check; --sample; --final).

    --check is a dry run, and what happens if nothing is said; --final asks for the
    version's tag and date; --sample builds the source distribution alone.
    """
    is_sample = "--sample" in session.posargs
    dist = ROOT / ("build/release" if is_sample else "dist")
    shutil.rmtree(dist, ignore_errors=True)
    groups = PROJECT["dependency-groups"]
    tools = (*groups["release"], *groups["conda"], *groups["wheels"])
    install(session, *BUILD_TOOLS, "build", *tools)
    install_torch(session, DEMO_TORCH)
    numpy = MATRIX[DEMO_TORCH]["numpy"]
    install(session, "pytest", numpy, "ziglang")
    # As kernels finds them; another folder than the package's own.
    wheel = built_wheel(session, DEMO_TORCH)
    session.run("python", "packaging", "hub", str(wheel), "--out", str(dist / "hub"))
    tests = ("tests/packaging/test_release.py", "tests/packaging/test_hub.py")
    hub = {"ORCHARD_HUB": str(dist / "hub"), **kernel_cache()}
    session.run("pytest", "--noconftest", "-q", *tests, env=hub)
    session.run("zizmor", "--offline", "--no-progress", "-q", ".github/workflows")
    sdist = ("--sdist", "--no-isolation", "-o", str(dist))
    session.run("python", "-m", "build", *sdist)
    if not is_sample:
        session.run("python", "packaging", "macos.wheels", "--werror")
        linux = [x for x in map(command_of, VERSIONS["package"]["python"]) if x]
        session.run("python", "packaging", "linux.wheels", "--python", *linux)
        # Those for Linux are tests: conda-forge's PyTorch there is another build.
        mac = ("--platform", "osx-arm64")
        session.run("python", "packaging", "conda.packages", *mac, env=kernel_cache())
        wheels = map(str, (dist / "macos").glob("*.whl"))
        session.run("python", "packaging", "hub", *wheels)
    options = [word for word in session.posargs if word != "--check"]
    session.run(*("python", "packaging", "release.make", "--dist", str(dist), *options))


# It builds the package of the oldest PyTorch, for the Python that runs it.
@nox.session(python=interpreter(OLDEST_TORCH, also=()))
def nix(session: nox.Session) -> None:
    """Prove the flake: all systems, hashes, a build, a shell (--evaluate: no build)."""
    if shutil.which("nix") is None:
        session.error(
            "expected the command nix (2.4 or newer) on the path, found none; install "
            "it: apt-get install nix-bin on Debian and Ubuntu"
        )
    tools = (*BUILD_TOOLS, "build", "nox", "ruff", *locked.TORCH_NEEDS)
    # The package that is built is for this Python: an older PyTorch, which breaks
    # with NumPy 2.
    # zig stands for nixpkgs'.
    extras = (*EXTRAS["cli"], *EXTRAS["sim"][:1], *EXTRAS["test"][1:])
    install(session, *tools, *extras, "numpy<2")
    session.run("python", "packaging", "nix.flake")
    session.run("pytest", "--noconftest", "-n", "2", "tests/packaging/test_nix.py")
    if "--evaluate" in session.posargs:  # no downloads
        return
    session.run("python", "packaging", "nix.wheels", "--check")
    session.run("python", "packaging", "nix.flake", "--build")


@nox.session(name="nix-wheels", python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def nix_wheels(session: nox.Session) -> None:
    """Pin the wheels of versions.toml for the flake: writes nix/wheels.json."""
    session.run("python", "packaging", "nix.wheels", *session.posargs)


@nox.session(python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def lock(session: nox.Session) -> None:
    """Pin what builds and tests anew: writes locks/ (names of files after --)."""
    install(session, "uv")
    session.run("python", "tools/lock.py", *session.posargs)


@nox.session(python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def audit(session: nox.Session) -> None:
    """Look up what locks/ pins among known vulnerabilities (--dry-run: asks nobody)."""
    install(session, *PROJECT["dependency-groups"]["audit"])
    session.run("python", "tools/audit.py", *session.posargs)


@nox.session(python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/docs; a broken link is an error."""
    # mkdocstrings formats signatures with ruff.
    ruff = [tool for tool in EXTRAS["lint"] if tool.startswith("ruff")]
    install(session, *PROJECT["dependency-groups"]["docs"], *ruff)
    # The theme says at every build that a successor of MkDocs is being made.
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(name="public-kernels", python=interpreter(DEMO_TORCH))
def public_kernels(session: nox.Session) -> None:
    """Read other projects' kernels in folders: what compiles, what is right."""
    install_package(session, DEMO_TORCH, "sim")
    session.run(
        "python",
        "tests/simulator/public_kernels.py",
        *session.posargs,
        env=kernel_cache(),
    )


@nox.session(venv_backend="none")
def cuda(session: nox.Session) -> None:
    """Check the kernels on an NVIDIA GPU, with the PyTorch for CUDA that is there."""
    session.run("python", "tests/metal/cuda", *session.posargs)


@nox.session(python=interpreter(NEWEST_TORCH, TOOL_PYTHONS))
def lint(session: nox.Session) -> None:
    """Check formats, types, lint rules and that all versions agree."""
    install(session, *EXTRAS["lint"], *EXTRAS["cli"], *EXTRAS["test"][1:], "packaging")
    install_torch(session, NEWEST_TORCH)
    session.run("python", "tools/check_versions.py")
    session.run("python", "tools/check_locks.py")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = [
        str(path.relative_to(ROOT))
        for folder in ("csrc", "kernels", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in FORMATTED
    ]
    session.run("clang-format", "--dry-run", "-Werror", *sources)
    session.run("mypy")
