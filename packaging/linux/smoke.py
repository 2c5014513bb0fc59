"""Install the Linux wheel beside each PyTorch and use it there, as a user would.

For each PyTorch under [wheels.torch] in versions.toml: a new environment with that
PyTorch, for the CPU alone, and the wheel that `nox -s wheels-linux` has left in
dist/linux; then forward and backward against float64 (recipe/smoke.py), on the CPU and
on the simulated device, and `orchard-ops doctor`.  What else is needed comes from the
environment that runs this.

Usage: python packaging linux.smoke [--torch 2.7 ...] [--no-doctor]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from project import ROOT, Failure, minor, python_tag, versions

MATRIX = versions()
KNOWN = {minor(version): version for version in MATRIX["wheels"]["torch"]}
# What PyTorch needs of NumPy, where it is not any.
NUMPY = {minor(e["version"]): e["numpy"] for e in MATRIX["torch"].values()}
ROW = "{torch:<8} {library:<34} {errors:<34} {doctor:<8} {seconds:>7}"
NAMES = ("torch", "library", "errors", "doctor", "seconds")
HEAD = ROW.format(**dict(zip(NAMES, NAMES)))


def wheel_for_this_python(folder: Path) -> Path:
    """Return the wheel that is there."""
    tag = python_tag("{}.{}".format(*sys.version_info))
    found = sorted(folder.glob(f"orchard_ops-*-{tag}-{tag}-*.whl"))
    if len(found) != 1:
        raise Failure(
            f"expected one wheel for {tag} in {folder}, found {len(found)}: run "
            "nox -s wheels-linux"
        )
    return found[0]


def environment(folder: Path, version: str, wheel: Path) -> Path:
    """Make an environment with a PyTorch and the wheel; return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # pip itself, and what the extras name.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    numpy = NUMPY.get(minor(version), "numpy")
    cpu_torch = ROOT / "tools" / "cpu_torch.py"
    run(sys.executable, cpu_torch, version, "--python", python, numpy)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    return python


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command where no setting of ours is left; return what it prints.

    Raises:
        Failure: its status is not 0; what it said is the message.
    """
    kept = ("ORCHARD_CACHE_DIR",)
    clean = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(("ORCHARD_", "PYTHONPATH"))
    }
    done = subprocess.run(command, text=True, capture_output=True, env=clean, cwd=cwd)
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise Failure(f"{words}\n{done.stdout}{done.stderr}")
    return done.stdout


def smoke(version: str, wheel: Path, work: Path, with_doctor: bool) -> dict[str, str]:
    """Use the wheel beside one PyTorch; return a row of the table."""
    start = time.monotonic()
    folder = work / version
    python = environment(folder, version, wheel)
    said = run(python, ROOT / "recipe" / "smoke.py", cwd=folder)
    errors = [
        line.split(",")[0].replace("largest error ", "") for line in said.split("\n")
    ]
    code = "from orchard_ops import _native as n; print(n.loaded_libraries()['_C'])"
    library = Path(run(python, "-c", code, cwd=folder).strip())
    if not library.is_relative_to(folder):
        raise Failure(f"{library} is not the wheel's")
    if with_doctor:
        run(python, "-m", "orchard_ops.cli", "doctor", cwd=folder)
    shutil.rmtree(folder)
    return {
        "torch": version,
        "library": "/".join(library.parts[-2:]),
        "errors": ", ".join(filter(None, errors)),
        "doctor": "ok" if with_doctor else "not run",
        "seconds": f"{time.monotonic() - start:.0f}",
    }


def main() -> None:
    """Try the PyTorches that the command line names, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="+", choices=KNOWN, default=list(KNOWN))
    parser.add_argument("--no-doctor", action="store_true", help="leave it out")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "smoke")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "linux")
    options = parser.parse_args()
    wheel = wheel_for_this_python(options.out.resolve())
    print(HEAD, flush=True)
    failed = []
    for name in options.torch:
        work = options.work.resolve()
        try:
            row = smoke(KNOWN[name], wheel, work, not options.no_doctor)
        except Failure as failure:
            failed.append(f"PyTorch {KNOWN[name]}: {failure}")
            print(f"{KNOWN[name]:<8} FAILED", flush=True)
            continue
        print(ROW.format(**row), flush=True)
    sys.exit("\n\n".join(failed) or 0)


if __name__ == "__main__":
    main()
