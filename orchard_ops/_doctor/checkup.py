"""The checks of ``orchard-ops doctor``, run one after the other in a child process.

A kernel that hangs the GPU or a library that aborts takes only the child with it: the
check that it was in has failed, and another child goes on with those that are left.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import torch

import orchard_ops

from .. import _native
from .._child import python
from .._device import STORAGE_MODES, choose_device, storage_mode
from .._errors import translate
from .._perf import timing
from . import self_test

__all__ = ["CHILD", "LIMIT", "Outcome", "checks", "examine"]

LIMIT = 300.0
"""Seconds that one check may take; a first kernel is compiled in them."""

CHILD = "from orchard_ops._doctor import checkup; checkup.main(sys.argv[1:])\n"
"""What the child runs."""

DEVICE, THREADS, BENCHMARK = "device", "threads", "benchmark"


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    check: str
    ok: bool
    line: str
    """One line for people."""
    found: dict[str, Any] = field(default_factory=dict)


def checks(wanted: str | None, with_benchmark: bool) -> list[str]:
    """Return the names of the checks, in the order in which they run."""
    names = [DEVICE, *(case.name for case in self_test.CASES)]
    if wanted in (None, "mps") and torch.backends.mps.is_available():
        names.append(THREADS)
    return [*names, BENCHMARK] if with_benchmark else names


def examine(
    wanted: str | None,
    names: list[str],
    limit: float = LIMIT,
    text: str | None = None,
) -> Iterator[Outcome]:
    """Run checks in children; yield each outcome as it comes.

    Args:
        wanted: ``mps``, ``metalsim`` or None, as `choose_device` takes it.
        names: some of `checks`.
        limit: seconds for each.
        text: what a child runs, by default `CHILD`.
    """
    text = CHILD if text is None else text
    left = list(names)
    while left:
        for outcome in _child(wanted, list(left), limit, text):
            left.remove(outcome.check)
            yield outcome
            if outcome.check == DEVICE and not outcome.ok:
                return  # There is nothing to run the others on.


def _child(
    wanted: str | None, names: list[str], limit: float, text: str
) -> Iterator[Outcome]:
    """Run checks in one child until it ends; the last outcome may be its end."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as said:
        command = python(text, str(writer), wanted or "", json.dumps(names))
        process = subprocess.Popen(
            command,
            pass_fds=[writer],
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
        )
        os.close(writer)
        done = 0
        try:
            for line in _lines(reader, limit):
                yield Outcome(**json.loads(line))
                done += 1
            if done < len(names):
                is_late = process.poll() is None and not _ends_soon(process)
                process.kill()
                yield Outcome(
                    names[done], False, _end(process.wait(), is_late, limit, said)
                )
        finally:
            process.kill()
            process.wait()
            os.close(reader)


def _lines(reader: int, limit: float) -> Iterator[str]:
    """Yield lines of a pipe until it ends, or says nothing for ``limit`` seconds."""
    rest = b""
    while select.select([reader], [], [], limit)[0]:
        part = os.read(reader, 65536)
        if not part:
            return
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.decode()


def _ends_soon(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child ends within a second: a closed pipe comes before its end."""
    deadline = time.monotonic() + 1.0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.poll() is not None


def _end(status: int, is_late: bool, limit: float, said: IO[bytes]) -> str:
    if is_late:
        return f"no answer in {limit:g} seconds: the GPU or a compiler hangs"
    said.seek(0)
    words = said.read().decode(errors="replace").strip().splitlines()
    why = f": {words[-1]}" if words else ""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}{why}"
    return f"the process ended with status {status}{why}"


def main(arguments: list[str]) -> None:
    """Run the checks that a parent names and write their outcomes (in the child)."""
    descriptor, wanted, names = arguments
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as out:
        for name in json.loads(names):
            out.write(json.dumps(asdict(run(name, wanted or None))) + "\n")
            out.flush()


def run(name: str, wanted: str | None) -> Outcome:
    """Run one check in this process."""
    try:
        device = choose_device(wanted)
        if name == DEVICE:
            return _device(device)
        if name == THREADS:
            limits = _thread_limits(device)
            return Outcome(name, True, f"{len(limits)} kernels", {"threads": limits})
        if name == BENCHMARK:
            return _benchmark(device)
        return _attention(name, device)
    except (orchard_ops.OrchardError, RuntimeError) as error:
        known = translate(error) if isinstance(error, RuntimeError) else error
        return Outcome(name, False, str(known))


def _device(device: torch.device) -> Outcome:
    storages = []
    for mode in STORAGE_MODES if device.type == "metalsim" else STORAGE_MODES[:1]:
        with storage_mode(device, mode):
            sample = torch.empty(4, 16, device=device)[1:]
        storages.append(asdict(orchard_ops.storage.describe(sample)))
    found = {
        "device": str(device),
        "device_name": storages[0]["device_name"],
        "storages": storages,
        "libraries": {
            name: str(path) for name, path in _native.loaded_libraries().items()
        },
    }
    return Outcome(DEVICE, True, f"{device}: {found['device_name']}", found)


def _attention(name: str, device: torch.device) -> Outcome:
    case = next(case for case in self_test.CASES if case.name == name)
    row = self_test.row(case, device)
    if "not_supported" in row:
        return Outcome(name, True, f"not supported: {row['not_supported']}", row)
    if "error" in row:
        return Outcome(name, False, row["error"], row)
    error = f"largest error {row['largest_error']:.1e}, at most {case.tolerance:.0e}"
    return Outcome(name, row["ok"], error, row)


def _thread_limits(device: torch.device) -> dict[str, dict[str, int]]:
    """Return kernel → maxTotalThreadsPerThreadgroup of its pipeline.

    As it ships, with max_total_threads_per_threadgroup, Metal repeats that number;
    without the attribute its own tells of the registers.  0: no pipeline.
    """
    like = torch.empty(1, device=device)
    rows = zip(*_native.ops.thread_limits(like))
    return {
        name: {"with_attribute": with_attribute, "without": without}
        for name, with_attribute, without in rows
    }


def _benchmark(device: torch.device) -> Outcome:
    rows = timing.short_benchmark(device)
    failed = [row["error"] for row in rows if "error" in row]
    line = failed[0] if failed else f"{len(rows)} timings beside PyTorch's attention"
    found = {"benchmark_of": timing.NOTE[device.type], "benchmark": rows}
    return Outcome(BENCHMARK, not failed, line, found)
