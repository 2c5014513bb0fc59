"""``orchard-ops replay``: run recorded launches on the simulator and compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import orchard_ops

if TYPE_CHECKING:  # The simulator's extra; --help needs none.
    import numpy as np

__all__ = ["Comparison", "replay", "replayed"]

FORMAT = 1
# How far two devices may round apart, of the largest number of a binding: two units
# in the last place of 16 bits; in float32 some sums in another order, and exp2.
TOLERANCE = {"float32": 2.0**-15, "float16": 2.0**-9, "bfloat16": 2.0**-6}


@dataclass(frozen=True)
class Comparison:
    """What one launch wrote into one binding, there and here."""

    launch: str
    binding: str
    type: str
    count: int
    """Numbers in it."""
    different: int
    """How many have other bits."""
    error: Optional[float]  # noqa: UP045
    """The largest difference over the largest number; None: inf or NaN differ."""
    ok: bool


def replay(
    path: Annotated[Path, typer.Argument(help="What orchard_ops.record wrote.")],
    strict: Annotated[
        bool, typer.Option(help="Look for races and stray reads too (slow).")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparisons as JSON only.")
    ] = False,
) -> None:
    """Run recorded launches on the simulator; compare what they write.

    The exit status is 1 if a launch fails here, or writes something else than
    rounding explains.
    """
    rows: list[Comparison] = []
    error = None
    try:
        rows.extend(replayed(path, is_strict=strict))
    except orchard_ops.OrchardError as caught:
        error = str(caught)
    if as_json:
        found = {"comparisons": [asdict(row) for row in rows], "error": error}
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(rows, error)
    if error is not None or not all(row.ok for row in rows):
        raise typer.Exit(1)


def replayed(path: Path, *, is_strict: bool = False) -> Iterator[Comparison]:
    """Run each launch of a recording, in order, from what it read when recorded.

    Args:
        path: the folder of a recording, or of one of its launches.
        is_strict: check for races and uninitialized reads as well.

    Yields:
        One comparison for each binding that a launch writes.

    Raises:
        InvalidProblemError: no recording lies there, or files of it are missing.
        KernelCompileError: a kernel's text was refused.
        DeviceError: no simulator here, or it caught the kernel at a mistake.
    """
    folders = sorted(file.parent for file in path.glob("*/launch.json"))
    if (path / "launch.json").is_file():
        folders = [path]
    if not folders:
        raise orchard_ops.InvalidProblemError(
            f"[replay] expected a folder that orchard_ops.record wrote, but {path} "
            "holds no launch.json"
        )
    for folder in folders:
        try:
            yield from _launch(folder, is_strict)
        except orchard_ops.OrchardError as error:
            raise type(error)(f"[replay] {folder.name}: {error}") from error
        except (OSError, KeyError, ValueError) as error:
            raise orchard_ops.InvalidProblemError(
                f"[replay] {folder} is no complete launch: {error!r}"
            ) from error


def _launch(folder: Path, is_strict: bool) -> Iterator[Comparison]:
    import numpy as np

    launch: dict[str, Any] = json.loads((folder / "launch.json").read_text())
    if launch["format"] != FORMAT:
        raise ValueError(f"format {launch['format']}, this version reads {FORMAT}")
    text = (folder / "kernel.metal").read_text()
    kernel = orchard_ops.sim.compile(text, launch["entry"])
    bindings = {row["index"]: row for row in launch["bindings"]}
    arguments: list[Any] = [None] * (max(bindings) + 1)
    for index, row in bindings.items():
        raw = (folder / f"{index}.before").read_bytes()
        is_buffer = row["kind"] == "buffer"
        arguments[index] = np.frombuffer(bytearray(raw), "u1") if is_buffer else raw
    kernel.dispatch(
        arguments,
        launch["threadgroups"],
        launch["threads_per_threadgroup"],
        launch["threadgroup_bytes"],
        strict=is_strict,
    )
    names = {p["index"]: p["name"] for p in kernel.info["parameters"]}
    for index, row in bindings.items():
        if row["access"] != "read":
            there = np.frombuffer((folder / f"{index}.after").read_bytes(), "u1")
            yield _compared(
                folder.name, names[index], row["type"], arguments[index], there
            )


def _compared(
    launch: str, name: str, type_: str, here: np.ndarray, there: np.ndarray
) -> Comparison:
    import numpy as np

    ours, theirs = _numbers(here, type_), _numbers(there, type_)
    different = int(np.sum(here.view(_BITS[type_]) != there.view(_BITS[type_])))
    is_finite = np.isfinite(theirs)
    same = np.where(is_finite, np.isfinite(ours), (ours == theirs))
    same |= np.isnan(ours) & np.isnan(theirs)
    error = None
    if same.all():
        scale = np.abs(theirs, where=is_finite, out=np.zeros_like(theirs)).max()
        gap = np.abs(np.where(is_finite, ours, 0) - np.where(is_finite, theirs, 0))
        error = float(gap.max() / scale) if scale else float(gap.max())
    is_ok = error is not None and error <= TOLERANCE[type_]
    return Comparison(launch, name, type_, ours.size, different, error, is_ok)


_BITS = {"float32": "u4", "float16": "u2", "bfloat16": "u2"}


def _numbers(raw: np.ndarray, type_: str) -> np.ndarray:
    """Return bytes as float64 numbers; NumPy has no bfloat16, half a float32."""
    import numpy as np

    if type_ == "bfloat16":
        numbers = (raw.view("u2").astype("u4") << 16).view("f4")
    else:
        numbers = raw.view(type_)
    with np.errstate(invalid="ignore"):  # What nothing wrote may be a signaling NaN.
        return numbers.astype(np.float64)


def _print(rows: list[Comparison], error: str | None) -> None:
    table = Table("launch", "writes", "type", "numbers", "other bits", "error", "")
    for row in rows:
        table.add_row(
            *(row.launch, row.binding, row.type, str(row.count), str(row.different)),
            "inf or NaN" if row.error is None else f"{row.error:.1e}",
            "ok" if row.ok else "DIFFERS",
        )
    console = Console()
    console.print(table)
    if error is not None:
        console.print(escape(error))
