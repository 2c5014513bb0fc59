"""Tiles by measurement: ``orchard_ops.tune``, what it keeps, and its command."""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from caches import forget, own_cache
from needs import chosen_device, skip_without_metalsim
from typer.testing import CliRunner

import orchard_ops
from orchard_ops import _native, sim
from orchard_ops._child import python
from orchard_ops._perf import search
from orchard_ops._perf.search import Tile
from orchard_ops._tune import bench as benches
from orchard_ops._tune import shapes, store
from orchard_ops._tune.meters import Step
from orchard_ops._tune.predicted import ModelMeter
from orchard_ops._tune.routes import Route, route_of
from orchard_ops._tune.search import Finding, Tuner
from orchard_ops._tune.shapes import Class, Shape, parse_shape
from orchard_ops._tune.store import Choices
from orchard_ops.cli import app

pytestmark = pytest.mark.xdist_group("tune")

F16 = Class("float16", 64)
TEXT = "tile forward float16 64 1 1 4 1\n"
SMALL = "1,1,1,32,32,16,float16"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels that this module's tests share."""
    return own_cache("tune-tests", tmp_path_factory)


@pytest.fixture
def cache(
    compiled: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The user's cache, in which nothing was tuned; the device as it ships after it."""
    monkeypatch.setenv("ORCHARD_CACHE_DIR", str(compiled))
    yield compiled
    store.reset(torch.zeros(1).to(device))
    forget(compiled)


@pytest.fixture
def like(device: torch.device) -> torch.Tensor:
    """A tensor of the device."""
    return torch.zeros(1).to(device)


def chosen(like: torch.Tensor, kernel: str = "forward", of: Class = F16) -> list[int]:
    """Return the tile that a kernel would have."""
    return list(_native.ops.chosen_tile(like, kernel, of.dtype, of.head_dim))


def refused(like: torch.Tensor, text: str) -> str:
    """Return why C++ does not take choices."""
    with pytest.raises(RuntimeError) as caught:
        _native.ops.try_choices(like, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tile forward float16 64 3 1 4 1", "rows of fragments"),
        ("tile forward float16 64 4 8 4 1", "at most 16 fragments"),
        ("tile forward float16 64 1 1 4 8", "simdgroups that go with"),
        ("tile forward float16 64 1 1 8 1", "simdgroups that go with"),
        ("tile backward_dkdv float16 512 4 4 8 8", "fits threadgroup memory"),
        ("tile combine float16 64 1 1 4 1", "a kernel that has tiles"),
        ("tile forward float64 64 1 1 4 1", "float32, float16 or bfloat16"),
        ("tile forward float16 640 1 1 4 1", "a number from 1 to 576"),
        ("tile forward float16 64 1 1 4", "seven words"),
        ("scratch float16 64 -1", "a number from 0"),
        ("threadgroups float16 64", "three words"),
        ("speed float16 64 1", "tile, scratch, threadgroups or route"),
        ("route float16 64 causal 1 6 6", "seven words after route"),
        ("route float16 64 causal 1 6 6 mlx", "pytorch or orchard"),
        ("route float16 64 sideways 1 6 6 orchard", "causal or dense"),
        ("route float64 64 causal 1 6 6 orchard", "float32, float16 or bfloat16"),
        ("route float16 640 causal 1 6 6 orchard", "a number from 1 to 576"),
        ("route float16 64 causal 0 6 6 orchard", "a number from 1"),
        (
            "tile backward_dkdv float16 64 1 1 4 1\n"
            "tile backward_dq_spilled float16 64 2 1 4 1",
            "to divide backward_dkdv's",
        ),
    ],
)
def test_a_choice_that_no_kernel_can_run_is_refused(
    text: str, why: str, like: torch.Tensor
) -> None:
    """A file is not trusted: a wrong tile would give wrong results."""
    message = refused(like, "# a remark\n\n" + text + "\n")
    assert message.startswith("[InvalidProblemError]")
    assert why in message


@pytest.mark.parametrize("kernel", search.KERNELS)
def test_what_the_search_calls_legal_can_be_chosen(
    kernel: str, like: torch.Tensor
) -> None:
    """The rules of the search and those of the reader agree."""
    for family, dim, size in itertools.product("AB", (64, 128, 256, 576), (2, 4)):
        of = Class("float16" if size == 2 else "float32", dim)
        for tile in search.legal_tiles(kernel, family, dim, size):
            choices = Choices()
            if kernel == "backward_dq_spilled":  # it must divide this one
                choices.set("backward_dkdv", of, Tile(4, 2, 4, 4))
                tile = Tile(min(tile.rows, 4), min(tile.cols, 2), *_rest(tile))
            choices.set(kernel, of, tile)
            with store.trying(like, choices):
                assert chosen(like, kernel, of) == [*vars(tile).values()]


def _rest(tile: Tile) -> tuple[int, int]:
    return tile.simdgroups, tile.slices


def test_choices_are_written_as_they_are_read() -> None:
    """Python's text and its reader agree, remarks included."""
    choices = Choices()
    choices.set("forward", F16, Tile(1, 2, 4, 1), "a remark")
    choices.set("scratch", F16, 0)
    assert Choices.read(choices.text()) == Choices(
        choices.values, {**choices.remarks, ("scratch", F16): ""}
    )


def test_a_trial_is_this_threads_alone(like: torch.Tensor) -> None:
    """Whoever else computes meanwhile has the tiles that were kept."""
    shipped = chosen(like)
    seen = []
    with store.trying(like, Choices.read(TEXT)):
        assert chosen(like) == [1, 1, 4, 1]
        thread = threading.Thread(target=lambda: seen.append(chosen(like)))
        thread.start()
        thread.join()
    assert [*seen, chosen(like)] == [shipped, shipped]


def test_a_choice_is_of_one_kernel_dtype_and_head_size(like: torch.Tensor) -> None:
    """Its neighbours keep what ships; the gradient of a bias has dq's."""
    others = [
        ("forward", Class("float32", 64)),
        ("forward", Class("float16", 56)),
        ("decode", F16),
        ("backward_dq", F16),
    ]
    before = [chosen(like, *other) for other in others]
    with store.trying(like, Choices.read(TEXT)):
        assert [chosen(like, *other) for other in others] == before


def test_chosen_scratch_is_of_one_dtype_and_head_size(like: torch.Tensor) -> None:
    """Its neighbours keep the default."""
    others = [("float32", 64), ("float16", 128)]
    before = [_native.ops.chosen_scratch(like, *other) for other in others]
    with store.trying(like, Choices.read("scratch float16 64 12345\n")):
        assert _native.ops.chosen_scratch(like, "float16", 64) == 12345
        assert [_native.ops.chosen_scratch(like, *other) for other in others] == before


@pytest.mark.parametrize("scratch", [0, 1 << 30])
def test_chosen_tiles_compute_what_shipped_ones_do(
    scratch: int, device: torch.device
) -> None:
    """Forward and backward, recomputing and keeping, by tiles that no table has."""
    case = benches.Bench(parse_shape("1,2,1,40,70,24,float16,causal"), device)
    of = Class("float16", 24)
    small = Tile(1, 2, 4, 2)
    choices = Choices()
    for kernel in ("forward", "backward_dkdv", "backward_dq", "backward_dq_spilled"):
        choices.set(kernel, of, small)
    choices.set("scratch", of, scratch)
    for which in ("forward", "backward"):
        with store.trying(case.q, Choices()):
            case.remember(which)
        with store.trying(case.q, choices):
            assert case.is_right(which)


def test_all_gradients_are_compared(device: torch.device) -> None:
    """A tile may be wrong in one of them alone."""
    bench = benches.Bench(parse_shape("1,2,1,20,30,16,float32"), device)
    leaves = [x.clone().requires_grad_() for x in (bench.q, bench.k, bench.v)]
    out = orchard_ops.flash_attention(*leaves)
    wanted = torch.autograd.grad(out, leaves, bench.grad_out)
    for got, want in zip(bench.run("backward"), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_one_wrong_element_of_many_is_noticed(device: torch.device) -> None:
    """However small it is: the norm of so many hardly changes by it."""
    bench = benches.Bench(parse_shape("1,1,1,8,8,16,float32"), device)
    want = torch.full((100_000,), 0.01)
    got = want.clone()
    got[7] *= 1 + 3 * benches.LARGEST[torch.float32]
    assert not bench._is_close(got, want)
    got[7] = want[7] * (1 + 0.5 * benches.LARGEST[torch.float32])
    assert bench._is_close(got, want)


def test_the_number_of_threadgroups_of_a_step_can_be_chosen(
    device: torch.device,
) -> None:
    """A cache is cut into as many parts as fill them."""
    skip_without_metalsim("simulator")
    case = benches.Bench(parse_shape("1,1,1,1,512,16,float16,decode"), device)
    groups = []
    for count in (1, 8):
        choices = Choices.read(f"threadgroups float16 16 {count}\n")
        with store.trying(case.q, choices):
            sim.reset_counters()
            case.run("decode")
        groups.append(sim.kernel_counters()["decode"]["threadgroups"])
    assert groups[0] < groups[1]


START = f"""
import torch, orchard_ops
from orchard_ops import _native
if {chosen_device()!r} == "metalsim":
    orchard_ops.sim.enable()
like = torch.zeros(1).to({chosen_device()!r})
print(*_native.ops.chosen_tile(like, "forward", "float16", 64))
"""


def child(cache: Path, tuned: str = "use") -> tuple[list[int], str]:
    """Return the tile that a new process has, and what it says on standard error."""
    environment = {
        **os.environ,
        "ORCHARD_CACHE_DIR": str(cache),
        "ORCHARD_TUNED": tuned,
    }
    done = subprocess.run(
        python(START), env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()], done.stderr


def test_what_is_kept_is_used_from_the_next_call_on(
    cache: Path, like: torch.Tensor
) -> None:
    """Also in later processes, by a file of the user's alone, until it is reset."""
    shipped = chosen(like)
    store.keep(like, Choices.read(TEXT))
    assert chosen(like) == [1, 1, 4, 1]
    assert store.kept(like).text() == TEXT
    (file,) = (cache / "tuned").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert child(cache) == ([1, 1, 4, 1], "")
    assert child(cache, "never") == (shipped, "")
    store.reset(like)
    assert not list((cache / "tuned").iterdir())
    assert chosen(like) == child(cache)[0] == shipped


@pytest.mark.parametrize("fault", ["cut", "changed", "illegal", "writable", "link"])
def test_a_file_that_is_not_the_users_or_not_whole_is_left_alone(
    fault: str, cache: Path, like: torch.Tensor, tmp_path: Path
) -> None:
    """One warning says so, and the shipped tiles hold."""
    shipped = chosen(like)
    store.keep(like, Choices.read(TEXT))
    (file,) = (cache / "tuned").iterdir()
    text = file.read_text()
    if fault == "cut":
        file.write_text(text[:-1])
    elif fault == "changed":
        file.write_text(text.replace("64 1 1 4 1", "64 1 2 4 1"))
    elif fault == "illegal":
        store.keep(like, Choices())
        key = text[: text.index("tile ")]
        wrong = key + "tile forward float16 64 9 9 4 1\n"
        file.write_text(wrong + digest(wrong))
        file.chmod(0o600)
    elif fault == "writable":
        file.chmod(0o622)
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    tile, said = child(cache)
    assert tile == shipped
    assert said.count("leaves alone what was tuned") == 1
    assert "orchard-ops tune" in said


def digest(text: str) -> str:
    """Return the digest of user_cache.cpp."""
    mask = (1 << 64) - 1
    a, b = 0xCBF29CE484222325, 0x9E3779B97F4A7C15
    for forwards, backwards in zip(text.encode(), text.encode()[::-1]):
        a = ((a ^ forwards) * 0x100000001B3) & mask
        b = ((b ^ backwards) * 0x100000001B3) & mask
        b ^= b >> 29
    return f"{a:016x}{b:016x}"


@pytest.mark.parametrize(
    "text",
    [
        *("1,1,1,32,32", "1,1,1,32,32,16,float64", "1,1,1,32,32,16,causal,cause"),
        *("0,1,1,32,32,16", "1,3,2,32,32,16", "1,1,1,32,32,577", "a,1,1,32,32,16", ""),
        "1,1,1,32,32,16,float16,float32",
    ],
)
def test_a_text_that_is_no_shape_is_refused(text: str) -> None:
    """Before anything is launched, with what was expected."""
    before = orchard_ops.call_counts()
    with pytest.raises(orchard_ops.InvalidProblemError, match=r"\[tune\] expected"):
        orchard_ops.tune([text])
    assert orchard_ops.call_counts() == before


def test_common_shapes_are_written_as_they_are_read() -> None:
    """They name float16 and bfloat16, causal or not, and a step of decoding."""
    assert all(parse_shape(str(shape)) == shape for shape in shapes.COMMON)
    assert any(shape.is_decode for shape in shapes.COMMON)
    assert {shape.is_causal for shape in shapes.COMMON} == {True, False}


@pytest.mark.parametrize(
    "wrong", [{"candidates": 1}, {"candidates": 65}, {"budget": 0}, {"shapes": []}]
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    """As shapes are."""
    with pytest.raises(orchard_ops.InvalidProblemError, match=r"\[tune\] expected"):
        orchard_ops.tune(**{"shapes": [SMALL], **wrong})


@pytest.mark.usefixtures("cache")
def test_tune_keeps_what_is_faster_and_only_that(like: torch.Tensor) -> None:
    """Every finding is at least as fast as what ships, and kept if it is faster."""
    skip_without_metalsim("simulator")
    said: list[float] = []
    found = orchard_ops.tune(
        [SMALL], candidates=3, progress=lambda _, share: said.append(share)
    )
    assert [each.which for each in found] == ["forward", "backward"]
    assert all(0 < each.tuned_ms <= each.shipped_ms for each in found)
    kept = store.kept(like)
    for each in found:
        assert bool(each.tuned) == (each.speedup > 1)
        for what, value in each.tuned.items():
            assert kept.values[what, Class("float16", 16)] == value
    assert len(kept.values) == sum(len(each.tuned) for each in found)
    assert said
    assert max(said) <= 1


@pytest.mark.usefixtures("cache")
def test_an_interrupt_keeps_what_was_found(like: torch.Tensor) -> None:
    """The forward's choice is kept before the backward begins."""
    skip_without_metalsim("simulator")
    first: list[object] = []

    def interrupt(text: str, _: float) -> None:
        if "backward" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        orchard_ops.tune([SMALL], candidates=3, progress=interrupt, found=first.append)
    (forward,) = first
    assert isinstance(forward, Finding)
    assert {what for what, _ in store.kept(like).values} == set(forward.tuned)
    assert chosen(like, "forward", Class("float16", 16)) == [
        *vars(
            forward.tuned.get(
                "forward", store.shipped_tile(like, "forward", Class("float16", 16))
            )
        ).values()
    ]


@pytest.mark.usefixtures("cache")
def test_a_tile_that_computes_something_else_is_not_kept(
    like: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast it is."""
    monkeypatch.setattr(benches.Bench, "is_right", lambda *_: False)
    found = orchard_ops.tune(["1,1,1,16,16,16,float16"], candidates=2)
    assert all(not each.tuned for each in found)
    assert not store.kept(like).values


@pytest.mark.usefixtures("cache")
def test_a_budget_ends_it(like: torch.Tensor) -> None:
    """Nothing is tried after it, and nothing that was kept before is lost."""
    kept = Choices.read("tile forward float16 16 1 1 4 1\n")
    store.keep(like, kept)
    assert orchard_ops.tune([SMALL], budget=1e-9) == []
    assert store.kept(like).values == kept.values


def run(*words: str) -> tuple[int, str]:
    """Run the command; return its status and what it prints."""
    done = CliRunner().invoke(app, ["tune", "--device", chosen_device(), *words])
    return done.exit_code, done.output


@pytest.mark.usefixtures("cache")
def test_the_command_tunes_shows_exports_and_resets(
    like: torch.Tensor, tmp_path: Path
) -> None:
    """Its JSON and its export have the choices beside the shipped ones."""
    status, text = run(
        *("--shape", "1,1,1,16,16,8,float32", "--candidates", "2", "--json")
    )
    assert status == 0, text
    found = json.loads(text)
    assert [row["which"] for row in found["findings"]] == ["forward", "backward"]
    store.keep(like, Choices.read(TEXT + "scratch float16 64 0  # a remark\n"))
    status, text = run("--show")
    assert status == 0
    assert "1x1 sg4 slices1" in text
    file = tmp_path / "choices.json"
    assert run("--export", str(file))[0] == 0
    tile, scratch = json.loads(file.read_text())["choices"]
    assert tile["tile"] == {"rows": 1, "cols": 1, "simdgroups": 4, "slices": 1}
    shipped = store.shipped_tile(like, "forward", F16)
    assert tile["shipped"] == vars(shipped)
    assert (scratch["value"], scratch["remark"]) == (0, "a remark")
    status, text = run("--reset")
    assert status == 0
    assert "Nothing is kept" in text
    assert not store.kept(like).values


@pytest.mark.usefixtures("cache")
def test_the_command_says_what_is_wrong() -> None:
    """A shape that is none is a usage error."""
    status, text = run("--shape", "1,2,3")
    assert status == 2
    assert "expected a shape" in " ".join(text.split())


@pytest.mark.usefixtures("cache")
def test_an_interrupted_command_prints_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its status is that of an interrupt."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(orchard_ops, "tune", interrupted)
    status, text = run("--shape", SMALL)
    assert status == 130
    assert "Nothing is kept" in text


def test_shapes_can_come_from_a_log_of_calls(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are called most often first."""
    log = tmp_path / "calls.log"
    monkeypatch.setenv("ORCHARD_DEBUG_FLASH_ATN", "1")
    monkeypatch.setenv("ORCHARD_KERNEL_LOG", str(log))
    q = torch.randn(1, 4, 24, 16).half().to(device)
    k = torch.randn(1, 2, 40, 16).half().to(device)
    orchard_ops.flash_attention(q, k, k)
    for _ in range(2):
        orchard_ops.flash_attention(q, k, k, is_causal=True)
    orchard_ops.flash_attention_with_kvcache(
        *(tensor.transpose(1, 2) for tensor in (q[:, :, :1], k, k)), cache_seqlens=40
    )
    assert [str(shape) for shape in shapes.shapes_of_log(log)] == [
        "1,4,2,24,40,16,float16,causal",
        "1,4,2,24,40,16,float16",
        "1,4,2,1,40,16,float16,decode",
    ]
    log.write_text("nothing\n")
    status, text = run("--log", str(log))
    assert status == 2
    assert "ORCHARD_DEBUG_FLASH_ATN" in text


def test_a_shortened_shape_needs_the_same_kernels() -> None:
    """One batch, one head of k and v, and no longer than is told."""
    shape = Shape(2, 8, 2, 4096, 512, 64, "float16", is_causal=True)
    small = shape.shortened(1024)
    assert small == Shape(1, 4, 1, 1024, 512, 64, "float16", is_causal=True)


def test_a_model_cuts_long_shapes_down(like: torch.Tensor) -> None:
    """A step of decoding eight times less: it has one row of queries."""
    skip_without_metalsim("simulator")
    meter = ModelMeter(like)
    tuner = Tuner(like, meter)
    for word, most in (("", meter.longest), (",decode", 8 * meter.longest)):
        shape = parse_shape(f"1,1,1,1,9000,16,float16{word}")
        assert tuner._bench(shape).shape.len_kv == most


def test_a_shape_is_no_step_of_decoding_unless_it_says_so() -> None:
    """Its words are all that it is."""
    assert parse_shape(SMALL) == Shape(1, 1, 1, 32, 32, 16)
    assert parse_shape(SMALL + ",decode").is_decode


class Slightly(ModelMeter):
    """A clock by which each other tile of a forward is one percent faster."""

    def __init__(self, like: torch.Tensor) -> None:
        """Take a tensor of the device."""
        super().__init__(like)
        self._shipped = self._tile()

    def _tile(self) -> tuple[int, ...]:
        return tuple(_native.ops.chosen_tile(self._like, "forward", "float16", 16))

    def seconds(self, step: Step, shape: Shape) -> float:
        """Return a time by the tile that is chosen."""
        step()
        assert shape.len_q == 32
        return 1.0 if self._tile() == self._shipped else 0.99


@pytest.mark.usefixtures("cache")
def test_a_gain_within_the_margin_is_none(like: torch.Tensor) -> None:
    """Timing varies by as much, and the tile that ships has been tried more."""
    skip_without_metalsim("simulator")
    tuner = Tuner(like, Slightly(like), candidates=3)
    choices, (found,) = next(tuner.tune(Class("float16", 16), [parse_shape(SMALL)]))
    assert not choices.values
    assert (found.tuned, found.speedup) == ({}, 1)


@pytest.mark.parametrize(
    ("family", "dtype", "element"),
    [("A", "float32", 4), ("A", "bfloat16", 4), ("A", "float16", 2),
     ("B", "float32", 4), ("B", "bfloat16", 2), ("B", "float16", 2)],
)  # fmt: skip
def test_tiles_are_tried_that_registers_hold(
    family: str, dtype: str, element: int, like: torch.Tensor
) -> None:
    """Class A holds bfloat16 as float32, and only that."""
    skip_without_metalsim("simulator")
    of = Class(dtype, 64)
    with sim.family(family):
        tried = Tuner(like, ModelMeter(like), candidates=16)._tiles(
            of, "forward", Choices()
        )
        shipped = store.shipped_tile(like, "forward", of)
    legal: dict[int, set[Tile]] = {4: set(), 2: set()}
    for size, tiles in legal.items():
        found = search.candidates("forward", family, search.row_for(64), size)
        tiles.update(each.tile for each in found)
    assert legal[4] != legal[2]
    assert set(tried) == legal[element] - {shipped}


# float32, since old PyTorch has no product of float16 on the CPU.
SQUARE = Route("float32", 16, is_causal=False, group=1, bits_q=6, bits_kv=6)


class BesidePyTorch(ModelMeter):
    """A clock by which PyTorch's own forward takes no time."""

    has_pytorch = True
    looks = 0

    def wall_seconds(self, step: Step, shape: Shape) -> float:
        """Return a time by the name of what was called."""
        step()
        self.looks += 1
        assert shape.len_q == 32
        return 1e-6 if "pytorch" in step.__name__ else 1.0


@pytest.mark.usefixtures("cache")
def test_pytorchs_own_forward_is_timed_beside_ours(like: torch.Tensor) -> None:
    """Where a device can tell; the findings have both times."""
    skip_without_metalsim("simulator")
    meter = BesidePyTorch(like)
    tuner = Tuner(like, meter, candidates=2)
    shape = parse_shape("1,1,1,32,32,16,float32")
    choices, (found,) = next(tuner.tune(Class("float32", 16), [shape]))
    assert choices.routes == {SQUARE: True}
    assert found.beside_ms == (1e3, 1e-3)
    assert meter.looks == 2 * 3 * meter.repeats  # a close look at each
    assert Choices.read(choices.text()).routes == choices.routes
    store.keep(like, choices)
    assert store.kept(like).routes == choices.routes


@pytest.mark.usefixtures("cache")
def test_sdpa_can_prefer_what_was_faster(
    like: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only if told, for calls of a measured class that need no gradient."""
    monkeypatch.setenv("ORCHARD_TUNED", "use")
    q = torch.randn(1, 2, 40, 16).to(like.device)
    other = torch.randn(1, 2, 70, 16).to(like.device)

    def goes_to_kernels(prefer: Any, tensor: torch.Tensor, **options: Any) -> bool:
        before = orchard_ops.call_counts().forward
        with orchard_ops.sdpa.enabled(prefer):
            decision = orchard_ops.sdpa.explain(tensor, tensor, tensor, **options)
            F.scaled_dot_product_attention(tensor, tensor, tensor, **options)
        is_routed = orchard_ops.call_counts().forward > before
        assert decision.is_routed == is_routed
        assert is_routed or "measured PyTorch's own forward" in decision.reason
        return is_routed

    assert goes_to_kernels("faster", q)  # nothing was measured
    store.keep(like, Choices(routes={SQUARE: True}))
    orchard_ops.sdpa.reset_fallbacks()
    assert not goes_to_kernels("faster", q)
    (reason,) = orchard_ops.sdpa.fallbacks()
    assert "lengths 32 to 63" in reason
    assert goes_to_kernels("orchard", q)
    assert goes_to_kernels("faster", other)
    assert goes_to_kernels("faster", q, is_causal=True)
    assert goes_to_kernels("faster", q.clone().requires_grad_())
    store.keep(like, Choices(routes={SQUARE: False}))
    assert goes_to_kernels("faster", q)


@pytest.mark.parametrize("wrong", ["", "fastest", None])
def test_sdpa_refuses_another_preference(wrong: Any) -> None:
    """And is not enabled then."""
    with pytest.raises(orchard_ops.InvalidProblemError, match="orchard or faster"):
        orchard_ops.sdpa.enable(wrong)
    assert not orchard_ops.sdpa.is_enabled()


def test_a_call_of_other_ranks_has_no_class() -> None:
    """Nor has one without keys' heads, of two head sizes, or that wants gradients."""
    x = torch.zeros(1, 2, 40, 16)
    assert route_of(x, x, x, is_causal=False) == SQUARE
    assert route_of(x[0], x[0], x[0], is_causal=False) is None
    assert route_of(x, x, x[..., :8], is_causal=False) is None
    assert route_of(x, x[:, :0], x[:, :0], is_causal=False) is None
    assert route_of(x.requires_grad_(), x, x, is_causal=False) is None
