"""``orchard-ops sim``: check, list and run Metal kernels from files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar, Union

import typer

from .. import sim as simulator
from .._errors import Diagnostic, FaultError, KernelCompileError, OrchardError

if TYPE_CHECKING:  # The simulator's extra; --help needs none.
    import numpy as np

__all__ = ["app"]

app = typer.Typer(
    help="Check, list and run Metal kernels from files.", no_args_is_help=True
)

_T = TypeVar("_T")
_Value = Union[bool, int, float]
_FRESH = re.compile(r"([a-z]+\d*):(\d+(?:x\d+)*)")
_WORDS = {"true": True, "false": False}

_File = Annotated[Path, typer.Argument(help="A file of Metal text.")]
_Include = Annotated[
    Optional[list[Path]],
    typer.Option("-I", "--include", help="A folder to include files from."),
]
_Define = Annotated[
    Optional[list[str]],
    typer.Option("-D", "--define", help="A macro: NAME or NAME=VALUE."),
]
_Github = Annotated[
    bool,
    typer.Option(
        "--github",
        help="Print annotations for GitHub too; the default in its workflows.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Files of Metal text.")],
    include: _Include = None,
    define: _Define = None,
    language: Annotated[
        str, typer.Option(help="Metal's version: 3.0, 3.1, 3.2 or 4.0.")
    ] = "3.1",
    github: _Github = False,
    as_json: _Json = False,
) -> None:
    """Check files by Metal's rules, without running them.

    The exit status is 1 if one of them breaks a rule.
    """
    found = []
    for path in paths:
        row: dict[str, Any] = {"file": str(path), "error": None}
        try:
            footprint = _library(path, include, define).check(language=language)
        except OrchardError as error:
            row["error"] = str(error)
            if not as_json:
                _complain(error, str(path), github)
        else:
            row["threadgroup_bytes"] = footprint.threadgroup_bytes
            row["spilled"] = list(footprint.spilled)
            if not as_json:
                typer.echo(f"{path}: {_described(footprint)}")
        found.append(row)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    if any(row["error"] is not None for row in found):
        raise typer.Exit(1)


@app.command("list")
def list_(
    path: _File,
    include: _Include = None,
    define: _Define = None,
    github: _Github = False,
    as_json: _Json = False,
) -> None:
    """Print the names of a file's kernels, one a line."""
    with _complaining(path, github):
        names = _library(path, include, define).names
    typer.echo(json.dumps(names, indent=2) if as_json else "\n".join(names))


@app.command()
def run(
    path: _File,
    kernel: Annotated[
        str, typer.Argument(help="The kernel; needless if the file has one.")
    ] = "",
    include: _Include = None,
    define: _Define = None,
    constant: Annotated[
        Optional[list[str]],  # noqa: UP045 - read at run time
        typer.Option(help="A function constant: INDEX=VALUE or NAME=VALUE."),
    ] = None,
    buffer: Annotated[
        Optional[list[str]],  # noqa: UP045 - read at run time
        typer.Option(help="SLOT=FILE.npy, or zeros: SLOT=float32:64x64."),
    ] = None,
    bytes_: Annotated[
        Optional[list[str]],  # noqa: UP045 - read at run time
        typer.Option("--bytes", help="SLOT=NUMBER or SLOT=FILE.npy, copied."),
    ] = None,
    output: Annotated[
        Optional[list[str]],  # noqa: UP045 - read at run time
        typer.Option(help="SLOT=FILE.npy: where a buffer goes afterwards."),
    ] = None,
    grid: Annotated[str, typer.Option(help="Threadgroups: N or X,Y,Z.")] = "",
    threads: Annotated[str, typer.Option(help="In place of --grid, all threads.")] = "",
    group: Annotated[str, typer.Option(help="Threads of a threadgroup.")] = "32",
    threadgroup_memory: Annotated[
        Optional[list[str]],  # noqa: UP045 - read at run time
        typer.Option(help="SLOT=BYTES of threadgroup memory."),
    ] = None,
    strict: Annotated[bool, typer.Option(help="Check every access (slow).")] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Run in so many orders; results must agree.")
    ] = 1,
    timeout: Annotated[
        Optional[float],  # noqa: UP045 - read at run time
        typer.Option(help="Seconds after which it is ended."),
    ] = None,
    github: _Github = False,
    as_json: _Json = False,
) -> None:
    """Run a kernel on arrays from files; print what it counted and wrote.

    The exit status is 1 if it does not compile, is caught at a mistake, or
    gives other bits in another order of its threads.
    """
    buffers = _pairs("--buffer", buffer, int, _array)
    arguments: dict[int, Any] = {
        **buffers,
        **_pairs("--bytes", bytes_, int, lambda text: simulator.Bytes(_copied(text))),
    }
    outputs = _pairs("--output", output, int, Path)
    if set(outputs) - set(buffers):
        raise typer.BadParameter("--output names a slot that has no --buffer")
    options = {
        "grid": _size("--grid", grid),
        "threads": _size("--threads", threads),
        "group": _size("--group", group),
        "threadgroup_memory": _pairs(
            "--threadgroup-memory", threadgroup_memory, int, int
        ),
        "strict": strict,
        "timeout": timeout,
    }
    constants = _pairs("--constant", constant, _index_or_name, _value)
    with _complaining(path, github):
        library = _library(path, include, define)
        compiled = library.kernel(_chosen(library, kernel), constants)
        counted = _swept(compiled, arguments, buffers, seeds, options)
    import numpy as np

    for slot, file in outputs.items():
        np.save(file, buffers[slot])
    typer.echo(_result(compiled, buffers, counted, as_json))


def _library(
    path: Path, include: list[Path] | None, define: list[str] | None
) -> simulator.Library:
    macros = [macro.partition("=") for macro in define or ()]
    # As a compiler's -D: without a value it is 1.
    defines = {name: value if equals else "1" for name, equals, value in macros}
    return simulator.library(path, include=include or (), defines=defines)


def _chosen(library: simulator.Library, name: str) -> str:
    if name:
        return name
    if len(library.names) == 1:
        return library.names[0]
    names = ", ".join(library.names) or "(none)"
    raise typer.BadParameter(f"{library.name} has the kernels {names}; name one")


def _swept(
    kernel: simulator.Kernel,
    arguments: Mapping[int, Any],
    buffers: Mapping[int, np.ndarray[Any, Any]],
    seeds: int,
    options: Mapping[str, Any],
) -> dict[str, int]:
    """Run under seeds 0, 1, …; the results are the first one's.

    Raises:
        FaultError: a later one gives other bits.
    """
    before = {slot: array.copy() for slot, array in buffers.items()}
    first: dict[int, np.ndarray[Any, Any]] = {}
    counted: dict[str, int] = {}
    for seed in range(seeds):
        for slot, array in buffers.items():
            array[...] = before[slot]
        found = kernel.dispatch(arguments, seed=seed, **options)
        if seed == 0:
            counted = found
            first = {slot: array.copy() for slot, array in buffers.items()}
        for slot, array in buffers.items():
            if array.tobytes() != first[slot].tobytes():
                raise FaultError(
                    f"kernel {kernel.name}: buffer {slot} has other bits when threads "
                    f"run in the order of seed {seed} than in that of seed 0; look for "
                    "a race with --strict"
                )
    return counted


def _described(footprint: simulator.Footprint) -> str:
    text = f"accepted, {footprint.threadgroup_bytes} bytes of threadgroup memory"
    if footprint.spilled:
        text += f", not in registers: {', '.join(footprint.spilled)}"
    return text


def _result(
    kernel: simulator.Kernel,
    buffers: Mapping[int, np.ndarray[Any, Any]],
    counted: Mapping[str, int],
    as_json: bool,
) -> str:
    written = {
        row["index"]: row["name"]
        for row in kernel.info["parameters"]
        if row["kind"] == "buffer" and not row["is_const"] and row["index"] in buffers
    }
    if as_json:
        slots = {str(slot): buffers[slot].tolist() for slot in written}
        return json.dumps({"counters": counted, "buffers": slots}, indent=2)
    lines = [f"{name}: {value}" for name, value in counted.items() if value]
    for slot, name in written.items():
        array = buffers[slot]
        lines.append(f"buffer {slot}, {name}: {array.dtype} {array.shape}\n{array}")
    return "\n".join(lines)


@contextmanager
def _complaining(path: Path, is_github: bool) -> Iterator[None]:
    """Print an error of a block, and end with status 1."""
    try:
        yield
    except OrchardError as error:
        _complain(error, str(path), is_github)
        raise typer.Exit(1) from error


def _complain(error: OrchardError, path: str, is_github: bool) -> None:
    typer.echo(str(error), err=True)
    source = getattr(error, "source", None)
    if source is not None:
        typer.echo(source, err=True)
    if is_github or os.environ.get("GITHUB_ACTIONS") == "true":
        for found in _places(error, path):
            typer.echo(_annotation(found))


def _places(error: OrchardError, path: str) -> tuple[Diagnostic, ...]:
    if isinstance(error, KernelCompileError) and error.diagnostics:
        return error.diagnostics
    file, line = getattr(error, "file", None), getattr(error, "line", None)
    return (Diagnostic(file or path, line or 1, None, str(error)),)


def _annotation(found: Diagnostic) -> str:
    """Return what GitHub reads from a workflow's output as a remark on a line."""
    place = {"file": found.file, "line": found.line, "col": found.column}
    said = ",".join(
        f"{name}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in place.items()
        if value is not None
    )
    return f"::error {said}::{_escaped(found.message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


_K = TypeVar("_K")


def _pairs(
    option: str,
    texts: list[str] | None,
    key: Callable[[str], _K],
    value: Callable[[str], _T],
) -> dict[_K, _T]:
    found = {}
    for text in texts or ():
        name, equals, rest = text.partition("=")
        try:
            if not equals:
                raise ValueError("no '='")
            found[key(name)] = value(rest)
        except (ValueError, TypeError, OSError) as error:
            raise typer.BadParameter(f"{option} {text}: {error}") from error
    return found


def _size(option: str, text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text}: expected N or X,Y,Z") from error


def _index_or_name(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _value(text: str) -> _Value:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return int(text, 0)
    except ValueError:
        return float(text)


def _array(text: str) -> np.ndarray[Any, Any]:
    import numpy as np

    if fresh := _FRESH.fullmatch(text):
        shape = tuple(int(part) for part in fresh[2].split("x"))
        return np.zeros(shape, np.dtype(fresh[1]))
    return np.ascontiguousarray(np.load(text, allow_pickle=False))


def _copied(text: str) -> Any:
    return _array(text) if text.endswith(".npy") else _value(text)
