"""Processes that are the ranks of one torch.distributed group, and what they are asked.

One fleet serves many tests, because a process takes seconds to start.  A request is a
function, which the process imports by its name, and its arguments; all ranks run it.
"""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from needs import chosen_device

import orchard_ops
from orchard_ops._child import python

__all__ = ["Fleet", "RankError", "group_of"]

TIMEOUT_S = 60
_MARK = "reply "
_groups: dict[tuple[int, ...], Any] = {}


class RankError(Exception):
    """What a rank raised: its type's name, its text, and where."""

    def __init__(self, kind: str, text: str, where: str = "") -> None:
        """Keep all three."""
        super().__init__(kind, text, where)
        self.kind, self.text, self.where = kind, text, where


class Fleet:
    """The ranks of a group of processes that a test started."""

    def __init__(self, size: int, folder: Path, timeout_s: float = TIMEOUT_S) -> None:
        """Start them; they meet in a file of the folder."""
        # Of each system's loopback, so that no other network is needed.
        interface = "lo0" if sys.platform == "darwin" else "lo"
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface}
        self.processes = [
            subprocess.Popen(
                python(
                    "import ranks; ranks.serve()",
                    *(str(rank), str(size), str(folder / "store"), str(timeout_s)),
                ),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]

    def __enter__(self) -> Fleet:
        """Return the fleet, which ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
            process.wait()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Let all ranks call a function; return what each returned or raised."""
        request = _packed((function.__module__, function.__name__, arguments))
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended, as its reply will say
        return [_reply(process) for process in self.processes]

    def asked(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what each rank returned; fail if one raised."""
        replies = self.ask(function, *arguments)
        for reply in replies:
            assert not isinstance(reply, RankError), reply.where or reply.text
        return replies


def _reply(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_MARK):
            return pickle.loads(base64.b64decode(line[len(_MARK) :]))
    return RankError("Ended", f"with status {process.wait()}")


def _packed(value: object) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()


def serve() -> None:
    """Be a rank: do what is asked on standard input until it ends."""
    rank, size, path, timeout_s = sys.argv[1:]
    torch.set_num_threads(1)
    if chosen_device() == "metalsim":  # before any backward, as sim.enable says
        orchard_ops.sim.enable()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{path}",
        rank=int(rank),
        world_size=int(size),
        timeout=timedelta(seconds=float(timeout_s)),
    )
    for line in sys.stdin:
        module, name, arguments = pickle.loads(base64.b64decode(line))
        try:
            reply = getattr(importlib.import_module(module), name)(*arguments)
        except Exception as error:
            reply = RankError(type(error).__name__, str(error), traceback.format_exc())
        print(_MARK + _packed(reply), flush=True)


def group_of(ranks: Sequence[int]) -> Any:
    """Return a group of some ranks; every rank of the fleet asks for it."""
    key = tuple(ranks)
    if key not in _groups:
        _groups[key] = dist.new_group([*ranks])
    return _groups[key]
