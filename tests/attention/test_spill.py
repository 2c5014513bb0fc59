"""The backward that keeps the gradients of the scores, and the one that does not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import BF16, CASES, F16, F32, Case, Mask
from feature_cases import FEATURE_CASES
from harness import run_case
from needs import needs_metalsim, skip_without_metalsim
from reference import Results, assert_close, make_inputs
from test_memory import peak_bytes

import orchard_ops
from orchard_ops import InvalidProblemError, sim

PLENTY = 1 << 30
BY_NAME = {case.name: case for case in [*CASES, *FEATURE_CASES]}
# One of each feature and of each shape that tiles, windows and masks are cut by.
SPILLING = [
    *("f32-d33", "f32-d80", "f32-d128", "f32-d256", "bf16-d40", "f32-d64-130x130-"),
    *("f32-d64-129x47-", "f32-d64-15x65-", "f32-d64-37x1-top-left", "f32-d64-gqa"),
    *(
        "bf16-d64-mqa",
        "f16-d64-dv128",
        "f32-d64-3d",
        "bool-mask-tiles",
        "bool-mask-all",
    ),
    *("bool-mask-rows", "bool-mask-causal", "float-mask-of-bqk", "float-mask-of-hk"),
    *("float-mask-of-bhq", "float-mask-of-one", "float-mask-tiles", "float-mask-f16"),
    *("float-mask-float32-bf16", "float-mask-causal-shared", "float-mask-gqa-shared"),
    *("window-long", "window-bottom-right-dead", "softcap-causal-gqa", "alibi-causal"),
    *("sinks-dead-rows", "dropout-causal-gqa", "dropout-d256", "varlen-ragged"),
    *("varlen-empty-sequences", "varlen-gqa-f16", "varlen-window", "layout-sliced"),
    *("layout-transposed-f16", "together-all", "together-bias-softcap"),
    *("together-all-varlen", "together-all-bool-f16"),
    *("wide-d512-f16", "wide-latent-f32", "wide-all-f32"),
]
RECOMPUTING = [
    *("f16-d64", "bf16-d64", "f16-d128", "bf16-d256", "f16-d64-gqa", "float-mask-f16"),
    *("float-mask-lowest-bf16", "dropout-f16", "varlen-gqa-f16", "softcap-d128-f16"),
    *("together-all-bool-f16", "alibi-bf16", "window-f16", "sinks-bf16"),
    *("wide-d512-f16", "wide-latent-f32", "wide-bias-bf16"),
]


def cases_named(names: list[str]) -> list[Case]:
    """Return the cases of those names, or those that begin so."""
    return [
        case
        for name in names
        for case in BY_NAME.values()
        if case.name == name or (name.endswith("-") and case.name.startswith(name))
    ]


@pytest.fixture
def launched(device: torch.device) -> dict[str, int]:
    """Return a dictionary that holds, once read, the launches of each kernel."""

    class Launched(dict[str, int]):
        def __missing__(self, kernel: str) -> int:
            assert device.type == "metalsim", "only the simulator counts launches"
            return sim.kernel_counters().get(kernel, {}).get("launches", 0)

    if device.type == "metalsim":
        sim.reset_counters()
    return Launched()


def run(case: Case, device: torch.device, max_bytes: int | None) -> Results:
    """Run a case with so much scratch, compare it with float64, and return it."""
    inputs = make_inputs(case)
    with orchard_ops.backward_scratch(max_bytes):
        actual = run_case(case, inputs, device)
    assert_close(case, inputs, actual)
    return actual


@pytest.mark.parametrize("case", cases_named(SPILLING), ids=lambda case: case.name)
def test_spilling_matches_float64(
    case: Case, device: torch.device, launched: dict[str, int]
) -> None:
    """With scratch for everything, every gradient is right, of every feature."""
    run(case, device, PLENTY)
    if device.type == "metalsim":
        assert launched["backward_dq_spilled"] == 1
        assert launched["backward_dq"] == 0


@pytest.mark.parametrize("case", cases_named(RECOMPUTING), ids=lambda case: case.name)
def test_recomputing_matches_float64(
    case: Case, device: torch.device, launched: dict[str, int]
) -> None:
    """Without scratch, where the default would take some, every gradient is right."""
    run(case, device, 0)
    if device.type == "metalsim":
        assert launched["backward_dq_spilled"] == 0
        assert launched["backward_dq"] == 1


HEADS = Case("spill-heads", F16, batch=5, heads_q=4, heads_kv=2, len_q=40, len_kv=56)
# Scores of one key head: 2 query heads, 64 rows and columns once tiles are filled; each
# 8 by 8 have a float beside them.
ONE_HEAD = 2 * 64 * (64 * 2 + 4)


@pytest.mark.parametrize("causal", ["none", "bottom-right"])
@pytest.mark.parametrize("family", ["A", "B"])
@pytest.mark.parametrize("heads", [1, 3, 5])
def test_chunks_of_heads(
    heads: int,
    family: str,
    causal: str,
    device: torch.device,
    launched: dict[str, int],
) -> None:
    """Scratch for some of ten key heads takes several rounds.

    By class, three at a time leave one for the fourth round, or four two for the third.
    """
    # Only the simulator can be told which GPU it is: on mps one family is all.
    is_simulated = device.type == "metalsim"
    if not is_simulated and family != "A":
        skip_without_metalsim("families")
    with sim.family(family) if is_simulated else nullcontext():
        run(replace(HEADS, causal=causal), device, heads * ONE_HEAD)
    if is_simulated:
        rounds = {1: (10, 10), 3: (4, 3), 5: (2, 2)}[heads]
        assert launched["backward_dkdv"] == rounds["AB".index(family)]


# 1,100 columns at a time of 2,300: three rounds that add up dq.
COLUMNS = Case("spill-columns", F16, heads_q=2, heads_kv=1, len_q=20, len_kv=2300)
SOME_COLUMNS = 2 * 32 * 1100 * 2


@pytest.mark.parametrize(
    "changes",
    [
        *({}, dict(causal="bottom-right"), dict(window=(70, 1500)), dict(batch=2)),
        *(dict(head_dim=80), dict(head_dim=256, dtype=BF16), dict(dtype=F32)),
        *(dict(mask=Mask("float", "hk", hidden="none")), dict(dropout=0.2)),
        dict(sequences=((9, 1500), (20, 2300), (3, 40))),
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_chunks_of_columns(
    changes: dict[str, Any], device: torch.device, launched: dict[str, int]
) -> None:
    """One key head that does not fit goes through in parts; dq adds them up."""
    case = replace(COLUMNS, **changes)
    run(case, device, SOME_COLUMNS * case.dtype.itemsize // 2)
    if device.type == "metalsim":
        assert launched["backward_dq_spilled"] >= 2


def test_too_little_scratch_is_not_taken(
    device: torch.device, launched: dict[str, int]
) -> None:
    """Scratch for less than 1,024 columns of a head is as good as none."""
    run(COLUMNS, device, SOME_COLUMNS // 2)
    if device.type == "metalsim":
        assert launched["backward_dq_spilled"] == 0


@pytest.mark.parametrize("max_bytes", [0, ONE_HEAD, PLENTY])
def test_same_bits_on_every_run(max_bytes: int, device: torch.device) -> None:
    """Each amount of scratch gives its own bits, every time, in any schedule."""
    first, second = (run(HEADS, device, max_bytes) for _ in range(2))
    assert torch.equal(first.dq, second.dq)
    # dk and dv never depend on it.
    without = run(HEADS, device, 0)
    assert torch.equal(first.dk, without.dk)
    assert torch.equal(first.dv, without.dv)


def test_only_wanted_gradients_spill(
    device: torch.device, launched: dict[str, int]
) -> None:
    """Only dq wanted, or dk and dv alone, take no scratch: nobody would read it."""
    q, k, v = (torch.randn(1, 1, 24, 64).half().to(device) for _ in range(3))
    with orchard_ops.backward_scratch(PLENTY):
        for leaf in (q, k):
            leaf.requires_grad_()
            orchard_ops.flash_attention(q, k, v).sum().backward()
            leaf.requires_grad_(False)
    if device.type == "metalsim":
        assert launched["backward_dq_spilled"] == 0


@needs_metalsim("counters")
def test_memory_is_linear_up_to_the_scratch(device: torch.device) -> None:
    """Longer sequences take no more than the scratch on top of what is linear."""
    case = Case("spill-memory", F16, len_q=256, len_kv=2048)
    longer = replace(case, len_kv=4096)
    allowed = (1 << 20) + (1 << 20) // 32  # and a float beside each 8 by 8
    peaks = []
    for problem in (case, longer):
        with orchard_ops.backward_scratch(0):
            least = peak_bytes(problem, device)
        with orchard_ops.backward_scratch(allowed):
            peaks.append(peak_bytes(problem, device) - least)
    sums = 256 * 64 * 4  # dq between two chunks of columns
    # Besides, what the allocator rounds up.
    assert allowed <= peaks[0] <= allowed + 1024
    assert allowed <= peaks[1] <= allowed + sums + 1024


def test_the_setting_is_restored_and_checked() -> None:
    """The context manager nests; wrong numbers are refused."""
    current = torch.ops.orchard_ops.backward_scratch
    before = current()
    with orchard_ops.backward_scratch(7):
        with orchard_ops.backward_scratch(None):
            assert current() == -1
        assert current() == 7
    assert current() == before
    wrongs: list[Any] = [-1, 1.5, True, "1"]
    for wrong in wrongs:
        with pytest.raises(InvalidProblemError, match="expected max_bytes to be"):
            orchard_ops.backward_scratch(wrong)
