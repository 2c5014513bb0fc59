"""Run the kernels' own text on an NVIDIA GPU: ``python tests/metal/cuda --help``.

A check of scale, speed and races on a real GPU.  Its timings say nothing about
Apple's GPUs (docs/cuda-check.md).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_build
import torch

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent.parent
ROOT = TESTS.parent
SUITE = [str(TESTS / name) for name in ("support", "attention")]
PARTS = ("table", "long", "memory", "speed", "tune", "distributed", "sanitize")
NO_CACHE = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SANITIZER = "compute-sanitizer"


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which orchard_ops finds the library."""
    paths = os.pathsep.join(map(str, (ROOT, *SUITE, HERE)))
    cache = str(folder / "kernels")
    (folder / "kernels").mkdir(mode=0o700, exist_ok=True)
    return {
        **os.environ,
        **{"ORCHARD_LIBRARY_DIR": str(folder), "PYTHONPATH": paths},
        **{"ORCHARD_CACHE_DIR": cache, "PYTHONDONTWRITEBYTECODE": "1"},
    }


def table(results: dict[str, Any]) -> bool:
    """Run the suite's table of small problems."""
    options = ["-q", "-n", str(os.cpu_count() or 1), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / "table.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
    )
    lines = done.stdout.strip().splitlines()
    print("\n".join(lines[-15:] if done.returncode else lines[-1:]), flush=True)
    results["table"] = lines[-1] if lines else ""
    return done.returncode == 0


def long(results: dict[str, Any]) -> bool:
    """Compare real models' sizes with float64."""
    import long as sizes

    rows = []
    for size in sizes.SIZES:
        for row in sizes.check(size):
            rows.append(row)
            errors = "  ".join(
                f"{name} {e['ours'][0]:.1e} ({e['plain'][0]:.1e})"
                for name, e in row["errors"].items()
            )
            verdict = "ok " if row["is_good"] else "BAD"
            print(f"{verdict} {row['size']:56} {errors}", flush=True)
        torch.cuda.empty_cache()
    results["long"] = rows
    return all(row["is_good"] for row in rows)


def memory(results: dict[str, Any]) -> bool:
    """Check that memory beside the inputs grows with the length, not its square."""
    import speed

    rows = []
    for length in (4096, 8192, 16384, 32768, 65536):
        row = {"length": length, "ours_mib": speed.memory(length, speed.recompute)}
        row["scratch_mib"] = speed.memory(length, speed.ours) - row["ours_mib"]
        if length <= 16384:
            row["math_mib"] = speed.memory(length, speed.math)
        rows.append(row)
        text = "  ".join(f"{key} {value:.1f}" for key, value in row.items())
        print(text, flush=True)
        torch.cuda.empty_cache()
    results["memory"] = rows
    per_row = [row["ours_mib"] / row["length"] for row in rows]
    # Linear, and on top of it scratch that is bounded whatever the length.
    is_bounded = all(row["scratch_mib"] <= 264 + row["ours_mib"] for row in rows)
    return is_bounded and max(per_row) <= 1.05 * min(per_row)


def speed(results: dict[str, Any]) -> bool:
    """Time forward + backward beside math attention."""
    import speed as timing

    rows = []
    for head_dim, is_causal in ((64, False), (64, True), (128, False), (128, True)):
        for length in timing.LENGTHS:
            row = timing.measure(length, head_dim, is_causal)
            rows.append(row)
            print(
                f"D{head_dim} N{length:<6}{'causal' if is_causal else '      '} "
                f"ours {row['ours_ms']:9.3f} ms  recomputing "
                f"{row['recompute_ms']:9.3f} ms  math {row['math_ms']:9.3f} ms "
                f"({row['ratio']:.2f}x)  math in float16 {row['math16_ms']:9.3f} ms "
                f"({row['ratio16']:.2f}x)  spread {row['largest_spread']:.2f}",
                flush=True,
            )
            torch.cuda.empty_cache()
    results["speed"] = rows
    return all(row["ratio"] > 1.0 for row in rows if row["length"] >= 2048)


def tune(results: dict[str, Any]) -> bool:
    """Search for tiles on this GPU; time the winners beside what ships."""
    import tuning

    rows = []
    like = torch.zeros(1, device="cuda")
    meter = tuning.CudaMeter(like)
    for row in tuning.rows(like, meter, results["budget"]):
        rows.append(row)
        print(tuning.text_of(row), flush=True)
        torch.cuda.empty_cache()
    print(tuning.markdown(rows), flush=True)
    results["tune"] = rows
    return bool(rows) and all(row["is_good"] for row in rows)


def distributed(results: dict[str, Any]) -> bool:
    """Share sequences among 1, 2, 4 and 8 GPUs, as many as there are, over NCCL."""
    import distributed as ranks

    rows, is_good, first = [], True, 0.0
    for count in (1, 2, 4, 8):
        if count > torch.cuda.device_count():
            break
        found = ranks.run(count)
        for rank, (_, cases) in enumerate(found):
            for case in cases:
                is_good &= case["is_good"]
                verdict = "ok " if case["is_good"] else "BAD"
                pairs = (
                    f"{n} {case[n][0]:.1e} ({case[n][1]:.1e})" for n in ranks.NAMES
                )
                print(
                    f"{verdict} rank {rank} of {count} {case['case']:20}",
                    *pairs,
                    flush=True,
                )
        slowest = max(timed["ms"] for timed, _ in found)
        first = first or slowest
        memory = max(timed["memory_mib"] for timed, _ in found)
        efficiency = first / slowest / count
        is_good &= efficiency >= ranks.LEAST_EFFICIENCY
        print(
            f"{ranks.LONG.name}, {count} GPUs: {slowest:.1f} ms, efficiency "
            f"{efficiency:.2f}, {memory:.0f} MiB a rank, sent {found[0][0]['sent']}",
            flush=True,
        )
        for rank, (timed, _) in enumerate(found):
            line = timed["time_line"]
            end = max((x[1] for spans in line.values() for x in spans), default=1.0)
            for name, spans in line.items():
                drawing = ranks.drawn_line(spans, end)
                time = f"{ranks.busy(spans):7.1f} of {end:.1f} ms"
                print(f"  rank {rank} {name:9} {time} {drawing}", flush=True)
        rows.append({"ranks": count, "efficiency": efficiency, "found": found})
    results["distributed"] = rows
    return is_good


def sanitize(results: dict[str, Any]) -> bool:
    """Run the memory and race checkers: silent, but for the planted faults."""
    runs = [
        ("memcheck", [], {}, True),
        ("racecheck", [], {}, True),
        ("memcheck", ["bounds"], {}, False),
        (
            "racecheck",
            ["race"],
            {"ORCHARD_NVCC_FLAGS": "-DMETAL_ON_CUDA_WITHOUT_BARRIERS"},
            False,
        ),
    ]
    rows, is_good = [], True
    for tool, planted, extra, is_silent in runs:
        command = [SANITIZER, "--tool", tool, "--error-exitcode", "9"]
        command += ["--kernel-name", "kernel_substring=_entry"]
        command += [sys.executable, str(HERE / "sanitized.py")]
        done = subprocess.run(
            [*command, *planted],
            env={**os.environ, **NO_CACHE, **extra},
            text=True,
            capture_output=True,
        )
        lines = (done.stdout + done.stderr).splitlines()
        summary = next((x for x in reversed(lines) if "SUMMARY" in x), "no summary")
        is_right = done.returncode == (0 if is_silent else 9)
        is_good &= is_right
        name = f"{tool} {'planted ' + planted[0] if planted else ''}"
        print(f"{'ok ' if is_right else 'BAD'} {name:24} {summary}", flush=True)
        if not is_right:
            print("\n".join(lines[-40:]), flush=True)
        rows.append({"run": name.strip(), "summary": summary, "is_right": is_right})
    results["sanitize"] = rows
    return is_good


def main() -> int:
    """Build, run the parts that are asked for, report."""
    parser = argparse.ArgumentParser(
        prog="python tests/metal/cuda", description=__doc__
    )
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--build", type=Path, help="folder to build in")
    parser.add_argument(
        "--budget", type=float, help="seconds after which tune tries nothing new"
    )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"expected parts among {', '.join(PARTS)}, got {unknown}")
    reason = cuda_build.reason_against()
    if reason:
        print(f"[cuda check] cannot run: {reason}", file=sys.stderr)
        return 2
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (options.build or cache / "orchard-ops-dev" / "cuda").resolve()
    os.environ.update(environment(cuda_build.build(folder)))
    sys.path[:0] = [str(ROOT), *SUITE]
    from cuda_device import open_device

    open_device()
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "driver_cuda": torch.version.cuda,
        "budget": options.budget,
    }
    print(f"{results['gpu']}, PyTorch {results['torch']}", flush=True)
    verdicts = {}
    for part in options.parts:
        print(f"\n== {part}", flush=True)
        verdicts[part] = globals()[part](results)
    results["verdicts"] = verdicts
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    words = [f"{part}: {'ok' if v else 'FAILED'}" for part, v in verdicts.items()]
    print("\n" + ", ".join(words))
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
