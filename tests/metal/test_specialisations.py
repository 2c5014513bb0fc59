"""Every kernel specialisation that ships: pinned, accepted, within its budget."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import budget
import pytest
import specialisations
import torch
from compact import SHAPE
from needs import IS_WHOLE, needs_metalsim
from paths import ROOT
from specialisations import Specialisation

import orchard_ops  # noqa: F401  Loads the operators.
from orchard_ops import sim

SHIPPED = specialisations.golden()


def short(s: Specialisation) -> str:
    """Name a specialisation by the values of its macros."""
    return f"{s.kernel}-" + "-".join(s.defines.values())


# What the package asks for on macOS 13, 14 and 15, and what 26 has.
LANGUAGES = ("3.0", "3.1", "3.2", "4.0")


def languages_of(s: Specialisation) -> tuple[str, ...]:
    """Return the languages that have a specialisation's types."""
    return LANGUAGES[1:] if "bfloat" in s.defines.values() else LANGUAGES


def chosen() -> list[tuple[Specialisation, str]]:
    """Return what is checked, each in which language."""
    if IS_WHOLE:
        return [(s, language) for s in SHIPPED for language in languages_of(s)]
    # The whole list in each language takes half an hour of two cores:
    # `nox -s kernels`.  Test sessions take every twentieth, of all kernels and types,
    # each in one language.
    pairs = []
    for i, s in enumerate(SHIPPED[::20]):
        fitting = languages_of(s)
        pairs.append((s, fitting[i % len(fitting)]))
    return pairs


every = pytest.mark.parametrize(
    ("shipped", "language"),
    [
        pytest.param(s, language, id=f"{language}-{short(s)}")
        for s, language in chosen()
    ],
)


def test_the_list_is_what_the_plan_asks_for() -> None:
    """A changed tile, define or feature must be written into the golden list."""
    now = {s.line for s in specialisations.listed()}
    then = {s.line for s in SHIPPED}
    remedy = (
        "python tests/metal/specialisations/specialisations.py, and look at the diff"
    )
    assert not now - then, f"new: {sorted(now - then)[:3]}; {remedy}"
    assert not then - now, f"gone: {sorted(then - now)[:3]}; {remedy}"


def test_the_list_has_every_kernel_and_type() -> None:
    """Each kernel file that a plan can launch appears, in each element type."""
    launched = {path.name for path in (ROOT / "kernels").glob("*.metal")}
    launched -= {"layout_probe.metal"}  # the Metal device's own
    pairs = {(s.file, s.defines["ELEM"]) for s in SHIPPED}
    types = ("float", "half", "bfloat")
    assert pairs == {(file, elem) for file in launched for elem in types}


def test_bfloat16_needs_a_newer_metal() -> None:
    """The message says which Metal a device compiles."""
    assert specialisations.said("reason") == (
        "bfloat16 needs Metal 3.1 (macOS 14 or newer); this device compiles Metal 2.4: "
        "use float16 or float32\n"
    )


def test_the_survey_names_each_kernel() -> None:
    """What `orchard-ops doctor` asks a device: every kernel in float16, by head size.

    Only the gradient of a mask needs one, and a kernel that no pipeline can be made of
    has 0 threads.
    """
    found, narrow = specialisations.survey(True), specialisations.survey(False)
    assert set(found) == set(narrow)
    assert set(found.values()) == {(1024, 384)}
    assert set(narrow.values()) == {(0, 0), (1024, 384)}
    sizes: dict[str, list[int]] = {}
    for name in found:
        match = re.fullmatch(r"(\w+)_half_d(\d+)_dv\2_\w+", name)
        assert match, name
        kernel, size = match.groups()
        assert name.endswith("_bias_half") == ("dbias" in kernel)
        if not name.endswith("_spilling"):
            sizes.setdefault(kernel, []).append(int(size))
    assert set(sizes) == {s.kernel for s in SHIPPED}
    assert sizes.pop("backward_prepare") == sizes.pop("combine") == [64]
    assert sizes.pop("backward_dbias_spilled") == [8]
    assert all(each == [64, 128, 512] for each in sizes.values()), sizes
    spilling = [name for name in found if name.endswith("_spilling")]
    assert len(spilling) == 3


@needs_metalsim("simulator")
@every
def test_it_keeps_metals_rules(shipped: Specialisation, language: str) -> None:
    """Apple's compiler would take it, as far as we know its rules.

    All its arrays are registers, and it declares the memory that its budget counts.
    """
    text = (ROOT / "kernels" / shipped.file).read_text(encoding="utf-8")
    found = sim.check(text, shipped.defines, language=language)
    assert not found.spilled
    assert found.threadgroup_bytes == budget.threadgroup_bytes(shipped)


def test_helpers_are_always_inlined() -> None:
    """A call that is not inlined takes the tiles that it is passed into memory."""
    folder = ROOT / "kernels"
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.*")}
    assert sum("METAL_FUNC" in text for text in texts.values()) > 10
    named = [path.name for path, text in texts.items() if "inline" in text.split()]
    assert not named, f"{named}: METAL_FUNC instead of inline"


@pytest.fixture
def no_library(tmp_path: Path) -> Path:
    """Make a folder of Metal's headers with nothing in them."""
    for name in ("metal_stdlib", "metal_simdgroup", "metal_simdgroup_matrix"):
        (tmp_path / name).touch()
    return tmp_path


def expanded(shipped: Specialisation, no_library: Path) -> str:
    """Return a kernel's text after the C preprocessor."""
    command = [*specialisations.compiler(), "-E", "-P", "-xc++"]
    command += [f"-I{no_library}", f"-I{ROOT / 'kernels'}"]
    command += [f"-D{name}={value}" for name, value in shipped.defines.items()]
    return subprocess.run(
        [*command, ROOT / "kernels" / shipped.file],
        check=True,
        text=True,
        capture_output=True,
    ).stdout


def bound(shipped: Specialisation, no_library: Path) -> int:
    """Return the most threads that a kernel declares."""
    text = expanded(shipped, no_library)
    (declared,) = re.findall(
        r"\[\[kernel, max_total_threads_per_threadgroup\(([^\]]+)\)\]\]", text
    )
    assert text.count("max_total_threads") == 1
    return math.prod(int(factor) for factor in declared.strip("()").split("*"))


def test_kernels_take_the_buffers_of_their_rows(no_library: Path) -> None:
    """Each text reads and writes what csrc/attention/kernels.cpp says that it does."""
    params = (ROOT / "kernels" / "params.h").read_text(encoding="utf-8")
    numbers = re.findall(r"#define SLOT_(\w+)[\s\\]+(\d+)", params)
    names = {number: name.lower() for name, number in numbers}
    # One text for each set of features; of halves, which have units.
    texts = {}
    for s in SHIPPED:
        if s.defines["ELEM"] == "half":
            flags = [v for name, v in s.defines.items() if name not in SHAPE]
            texts[s.kernel, " ".join(flags)] = s
    found: dict[str, dict[str, str]] = {}
    for s in texts.values():
        for const, number in re.findall(
            r"device (const)?[^,()]*\[\[\s*buffer\((\d+)\)", expanded(s, no_library)
        ):
            found.setdefault(s.kernel, {})[names[number]] = const
    # It is bound where there is a mask, although its type alone is needed.
    found["backward_dbias_spilled"]["mask"] = "const"
    for kernel, read, written in zip(*torch.ops.orchard_ops.kernel_tensors()):
        assert {*read.split(), *written.split()} == set(found[kernel]), kernel
        assert not any(found[kernel][name] for name in written.split()), kernel
        writable = {name for name, const in found[kernel].items() if not const}
        assert writable - {"units"} <= set(written.split()), kernel


def test_no_kernel_declares_fewer_than_64_threads(no_library: Path) -> None:
    """A bound of 32 is known to miscompile (tile/prelude.h); none is too small."""
    kinds = {(s.file, s["SIMDGROUPS"]): s for s in SHIPPED}
    assert {simdgroups for _, simdgroups in kinds} >= {2, 4, 6}
    # None has a single one today; a tile may ask for it tomorrow.
    for shipped in list(kinds.values()):
        line = re.sub(r"SIMDGROUPS=\d+", "SIMDGROUPS=1", shipped.line)
        kinds[shipped.file, 1] = Specialisation(line)
    for (file, simdgroups), shipped in kinds.items():
        declared = bound(shipped, no_library)
        assert declared == max(64, 32 * simdgroups), file


@needs_metalsim("simulator")
def test_the_lane_probe_keeps_metals_rules() -> None:
    """So does the probe that runs before any of them."""
    text = (ROOT / "kernels" / "layout_probe.metal").read_text(encoding="utf-8")
    sim.check(text, language="3.0")


@pytest.mark.parametrize("family", budget.TILE_REGISTERS)
def test_tiles_fit_the_budget_of_their_class(family: str) -> None:
    """Registers and threadgroup memory of each tile fit the GPUs that ask for it."""
    most = budget.TILE_REGISTERS[family]
    asked = specialisations.listed(family)
    over = [
        f"{short(s)}: {budget.tile_registers(s)} registers, "
        f"{budget.threadgroup_bytes(s)} bytes"
        for s in asked
        if budget.tile_registers(s) > most
        or budget.threadgroup_bytes(s) > budget.THREADGROUP_BYTES
    ]
    assert len(asked) > 100
    assert not over


@pytest.mark.parametrize(
    ("line", "registers", "memory"),
    [
        # docs: 32 for out, 16 for scores, 16 for q
        ("forward HEAD_DIM=64 HEAD_DIM_V=64 TILE_ROWS=2 TILE_COLS=4 SLICES=1", 64, 0),
        # 32 for dk and dv, 8 for scores and gradients, 16 for k and v
        ("backward_dkdv HEAD_DIM=64 HEAD_DIM_V=64 TILE_ROWS=2 TILE_COLS=1 SLICES=1",
         56, 0),
        ("backward_dq HEAD_DIM=64 HEAD_DIM_V=64 TILE_ROWS=1 TILE_COLS=4 SLICES=1",
         48, 0),
        ("forward HEAD_DIM=256 HEAD_DIM_V=256 TILE_ROWS=1 TILE_COLS=4 SLICES=2",
         56, 8192),
    ],
)  # fmt: skip
def test_budgets_are_counted_as_documented(
    line: str, registers: int, memory: int
) -> None:
    """The count gives the design's own figures for 16-bit elements."""
    s = Specialisation(f"x {line} ELEM_BYTES=2 OPERAND_BYTES=2 SIMDGROUPS=4")
    assert budget.tile_registers(s) == registers
    assert budget.threadgroup_bytes(s) == memory
