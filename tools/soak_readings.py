"""What tools/soak.py reads of its process, and leaks of each kind, to try it with."""

from __future__ import annotations

import ctypes
import functools
import gc
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import torch
from soak_calls import CALLS, ROWS, SIM

import orchard_ops
from orchard_ops import sdpa, sim

__all__ = ["HEAP", "PLANTED", "RESIDENT", "counts", "read"]

HEAP, RESIDENT = "heap bytes", "resident bytes"
_kept: list[Any] = []


class _Heap(ctypes.Structure):
    """What C's allocator tells of itself: struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                     "fsmblks", "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def counts() -> tuple[int, ...]:
    """Return the operators' counters, the fallbacks and the simulator's launches."""
    calls = orchard_ops.call_counts()
    fallbacks = sum(sdpa.fallbacks().values())
    return (calls.forward, calls.backward, fallbacks, sim.counters().get("launches", 0))


def read() -> dict[str, int]:
    """Return what the process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {
        HEAP: _heap_bytes(),
        RESIDENT: pages * os.sysconf("SC_PAGESIZE"),
        "bytes on the device": sim.memory().allocated_bytes,
        "Python objects": len(gc.get_objects()),
        "cache entries": _cache_entries(),
        # Each kernel is one.
        "loaded libraries": len({line.split()[-1] for line in maps if ".so" in line}),
        "file descriptors": _entries("/proc/self/fd"),
        "threads": _entries("/proc/self/task"),
    }


def _heap_bytes() -> int:
    """Return what is in use of C's heap; 0 where glibc is older than 2.33."""
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if tell is None:
        return 0
    tell.restype = _Heap
    heap = tell()
    return int(heap.uordblks + heap.hblkhd)


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _cache_entries() -> int:
    """Count what the package's modules keep, in caches and in other containers."""
    values = {
        id(value): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "orchard_ops"
        for value in vars(module).values()
    }
    found = 0
    for value in values.values():
        if isinstance(value, functools._lru_cache_wrapper):
            found += value.cache_info().currsize
        elif isinstance(value, (dict, list, set)):
            found += len(value)
    return found


def _keep_pages() -> None:
    pages = mmap.mmap(-1, 1 << 20)
    pages.write(bytes(1 << 20))
    _kept.append(pages)


def _keep_descriptor() -> None:
    _kept.append(os.open(os.devnull, os.O_RDONLY))


def _keep_thread() -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


PLANTED: dict[str, Callable[[], object]] = {
    HEAP: lambda: _kept.append(os.urandom(1 << 14)),
    # Neither Python nor C's allocator knows of this.
    RESIDENT: _keep_pages,
    "bytes on the device": lambda: _kept.append(torch.empty(1, device=SIM)),
    "Python objects": lambda: _kept.append([_kept]),
    "cache entries": lambda: sdpa._count(f"planted at {time.monotonic_ns()}"),
    "file descriptors": _keep_descriptor,
    "threads": _keep_thread,
    "counts": lambda: CALLS["forward"].run(ROWS[0]),
}
