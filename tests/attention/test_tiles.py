"""Rows of the tables of tiles: the right values, and no race.

The simulator takes minutes for all of them, which `nox -s kernels` tries; test sessions
try every third, of each class and size of numbers.  A GPU tries all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tune
from cases import F16, F32, Case, Mask
from harness import attend, run_case
from needs import IS_WHOLE, chosen_device, skip_without_metalsim
from reference import Inputs, assert_close, make_inputs
from test_kvcache import Step, check
from torch import Tensor

import orchard_ops
from orchard_ops import sim

TABLE = re.compile(r"constexpr Tile k(\w+)(A|B)(2|4)\[\] = \{(.*?)\n\};", re.DOTALL)
ROW = re.compile(r"\{ *(\d+), (\d+), (\d+), (\d+), (\d+)\}")
KERNELS = {
    "Forward": ("forward",),
    "BackwardDkdv": ("backward_dkdv",),
    "BackwardDq": ("backward_dq", "backward_dbias"),
    "BackwardDqSpilled": ("backward_dq_spilled",),
    "Decode": ("decode",),
}
DTYPES = {"2": F16, "4": F32}
STEP = 1 if IS_WHOLE or chosen_device() != "metalsim" else 3
PLENTY = 1 << 30
# Twice as many blocks as one, of rows and of columns, in every tile, and no whole ones.
# A bias of keys or queries is a sum over the other fragments of a tile.
CASE = Case("", len_q=37, len_kv=70, softcap=4.0)


def read_tables() -> dict[tuple[str, str, str], list[tuple[int, str]]]:
    """Return class, element size and kernel → head size and tile of each row.

    The head size is the largest that the row is for, and a tile is written as the
    kernels' names have it.
    """
    found = {}
    for name, family, size, text in TABLE.findall(tune.TABLE.read_text("utf-8")):
        rows = [
            (int(most), f"tile{rows}x{cols}_sg{simdgroups}_slices{slices}")
            for most, rows, cols, simdgroups, slices in ROW.findall(text)
        ]
        for kernel in KERNELS[name]:
            found[family, size, kernel] = rows
    return found


TABLES = read_tables()
PROBLEMS = sorted(
    {
        (family, size, most)
        for (family, size, kernel), rows in TABLES.items()
        for most, _ in rows
        if kernel != "decode"
    }
)
DECODING = [
    (family, size, most, tile)
    for (family, size, kernel), rows in TABLES.items()
    for most, tile in rows
    if kernel == "decode"
]


def tiles_for(family: str, size: str, head_dim: int) -> set[tuple[str, str]]:
    """Return kernel and tile, by the tables, of all that training launches."""
    return {
        (kernel, next(tile for most, tile in rows if head_dim <= most))
        for (of_family, of_size, kernel), rows in TABLES.items()
        if (of_family, of_size) == (family, size) and kernel != "decode"
    }


@contextlib.contextmanager
def settings_of(family: str, device: torch.device) -> Iterator[None]:
    """Make the simulator a GPU of that class, which forgives nothing."""
    if device.type == "metalsim":
        with sim.family(family), sim.strict():
            yield
        return
    if family != "A":  # A GPU has one class: what the first shows is all.
        skip_without_metalsim("families")
    yield


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the names of the kernels that are launched into a file."""
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", "1")
    monkeypatch.setenv("ORCHARD_KERNEL_LOG", str(tmp_path / "kernels.log"))
    return tmp_path / "kernels.log"


def launched_tiles(log: Path) -> set[tuple[str, str]]:
    """Return kernel and tile of what was launched, but for simdgroups of a row each."""
    name = re.compile(r"([a-z_]+?)_(?:float|half)_\w*?(tile\d+x\d+_sg\d+_slices\d+)")
    with_tables = {kernel for kernels in KERNELS.values() for kernel in kernels}
    return {found for found in name.findall(log.read_text()) if found[0] in with_tables}


def gradient_of_q_alone(case: Case, inputs: Inputs, device: torch.device) -> Tensor:
    """Return dq, which is worth no scratch if nothing else is wanted."""
    q, k, v, grad_out = (tensor.to(device) for tensor in inputs.core)
    mask = inputs.attn_mask.to(device)
    out, _ = attend(case, q.requires_grad_(), k, v, attn_mask=mask)
    return torch.autograd.grad(out, q, grad_out)[0].cpu()


@pytest.mark.parametrize("problem", PROBLEMS[::STEP], ids="{0[0]}{0[1]}-d{0[2]}".format)
def test_each_row(
    problem: tuple[str, str, int], device: torch.device, log: Path
) -> None:
    """All gradients are right in strict mode, by the tiles that the tables name."""
    family, size, head_dim = problem
    with settings_of(family, device), orchard_ops.backward_scratch(PLENTY):
        for dims in ("k", "q"):
            case = replace(
                CASE, name=f"tiles-{family}{size}-d{head_dim}-{dims}",
                dtype=DTYPES[size], head_dim=head_dim,
                mask=Mask("float", dims, hidden="none"),
            )  # fmt: skip
            inputs = make_inputs(case)
            actual = run_case(case, inputs, device)
            assert_close(case, inputs, actual)
        dq = gradient_of_q_alone(case, inputs, device)
        assert_close(case, inputs, replace(actual, dq=dq))
    if device.type == "metalsim":
        assert launched_tiles(log) == tiles_for(family, size, head_dim)


@pytest.mark.parametrize("row", DECODING[::STEP], ids="{0[0]}{0[1]}-d{0[2]}".format)
def test_each_row_of_decoding(
    row: tuple[str, str, int, str], device: torch.device, log: Path
) -> None:
    """A decoding step is right in strict mode, by the tile that the table names.

    Each simdgroup of the longest sequence has a block of keys, and one has a second.
    """
    family, size, head_dim, tile = row
    step = Step(
        f"tiles-{family}{size}-d{head_dim}", DTYPES[size], heads_q=2, heads_kv=1,
        lengths=(3, 330), capacity=330, head_dim=head_dim,
        head_dim_v=min(head_dim, 512), options={"num_splits": 1},
    )  # fmt: skip
    with settings_of(family, device):
        check(step, device)
    if device.type == "metalsim":
        assert launched_tiles(log) == {("decode", tile)}


# Tiles that share barriers: all must walk the blocks that any of them sees.
SHARED = [
    (family, size, most)
    for family, size, most in PROBLEMS
    if any(
        1 < int(slices) < int(simdgroups)
        for _, tile in tiles_for(family, size, most)
        for simdgroups, slices in [re.findall(r"sg(\d+)_slices(\d+)", tile)[0]]
    )
]


@pytest.mark.parametrize("features", ["window", "mask"])
@pytest.mark.parametrize("problem", SHARED[::STEP], ids="{0[0]}{0[1]}-d{0[2]}".format)
def test_tiles_that_see_other_scores(
    problem: tuple[str, str, int], features: str, device: torch.device
) -> None:
    """What one tile of a threadgroup does not see, another may."""
    family, size, head_dim = problem
    case = replace(
        CASE, name=f"tiles-{family}{size}-d{head_dim}-{features}",
        dtype=DTYPES[size], head_dim=head_dim, len_q=70,
        mask=Mask("bool", "qk", hidden="tiles") if features == "mask" else None,
        window=(9, 4) if features == "window" else None,
    )  # fmt: skip
    inputs = make_inputs(case)
    with settings_of(family, device):
        assert_close(case, inputs, run_case(case, inputs, device))


def test_the_tables_are_read_whole() -> None:
    """No table and no row of the source escapes the tests above."""
    text = tune.TABLE.read_text("utf-8")
    generated = text[text.index(tune.BEGIN) : text.index(tune.END)]
    assert len(TABLES) == 2 * 2 * 6
    assert generated.count("constexpr Tile") == len(TABLE.findall(generated)) == 20
    rows = sum(len(ROW.findall(found[-1])) for found in TABLE.findall(generated))
    assert rows == len(re.findall(r"^ +\{.*\}, ", generated, re.MULTILINE)) > 90
