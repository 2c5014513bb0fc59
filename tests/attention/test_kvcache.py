"""Decoding with a cache of keys and values, against the definition in float64."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from cases import FLOOR, Case
from needs import TORCH, skip_without
from reference import Part, attend, largest
from rotation import turn
from torch import Tensor

import orchard_ops
from orchard_ops import InvalidProblemError, OrchardError, UnsupportedError, flash_attn

POISON = math.nan  # in every place of a cache that must not be read


@dataclass(frozen=True)
class Step:
    """One decoding step: ``options`` go to the public function as they are."""

    name: str
    dtype: torch.dtype = torch.float32
    heads_q: int = 4
    heads_kv: int = 2
    len_q: int = 1
    lengths: tuple[int, ...] = (0, 77, 130)  # keys that count, new ones included
    capacity: int = 130
    head_dim: int = 64
    head_dim_v: int = 64
    page_size: int = 0
    len_new: int = 0
    rows: tuple[int, ...] = ()  # cache_batch_idx, of a cache of two more entries
    left_pads: tuple[int, ...] = ()
    rotary: str = ""  # or "interleaved", "halves"
    slopes: str = ""
    sinks: bool = False
    options: dict[str, Any] = field(default_factory=dict)


F16, BF16 = torch.float16, torch.bfloat16
STEPS = [
    Step("f32"),
    Step("f16-many-splits", F16, options={"num_splits": 7}),
    Step("f16-one-split", F16, options={"num_splits": 1}),
    Step("bf16-d128", BF16, head_dim=128, head_dim_v=128),
    Step("f32-d256", head_dim=256, head_dim_v=256, lengths=(5, 40, 33), capacity=40),
    Step("f32-d512", head_dim=512, head_dim_v=512, lengths=(5, 40, 33), capacity=40),
    # Latent attention: many query heads, one key head.
    Step("bf16-d576-dv512", BF16, heads_q=16, heads_kv=1, head_dim=576,
         head_dim_v=512, lengths=(5, 40, 33), capacity=40),
    Step("f16-d576-dv512-paged", F16, heads_q=16, heads_kv=1, head_dim=576,
         head_dim_v=512, lengths=(5, 40, 33), capacity=40, page_size=16),
    Step("f16-d40-dv72", F16, head_dim=40, head_dim_v=72),
    Step("mqa-causal", F16, heads_q=8, heads_kv=1, len_q=5,
         options={"is_causal": True}),
    Step("more-queries-than-keys", len_q=9, lengths=(3, 9, 20),
         options={"is_causal": True}),
    Step("paged", F16, page_size=32),
    Step("paged-small", page_size=8, len_q=3, options={"is_causal": True}),
    Step("paged-d128-f32", page_size=16, head_dim=128, head_dim_v=128),
    Step("window", F16, len_q=2, options={"window": (20, 0)}),
    Step("softcap", options={"softcap": 2.0}),
    Step("alibi-heads", slopes="heads", len_q=2),
    Step("alibi-batch-heads", F16, slopes="batch-heads", options={"is_causal": True}),
    Step("rows", rows=(4, 0, 2)),
    Step("left-pads", F16, left_pads=(0, 5, 100), len_q=2,
         options={"is_causal": True}),
    Step("append", len_q=3, len_new=3, lengths=(3, 77, 130),
         options={"is_causal": True}),
    Step("append-paged", F16, len_new=2, page_size=16, lengths=(2, 77, 130)),
    Step("append-rows", len_new=1, rows=(1, 3, 0), lengths=(1, 70, 130)),
    Step("rotary-interleaved", len_q=2, len_new=2, lengths=(2, 77, 130),
         rotary="interleaved", options={"is_causal": True}),
    # Each query stands at its own position for a window, else all at the first.
    Step("rotary-window", len_q=3, len_new=3, lengths=(3, 77, 130), rotary="halves",
         options={"window": (20, 4)}),
    Step("rotary-open-window", len_q=3, len_new=2, lengths=(2, 77, 129),
         rotary="interleaved", options={"window": (-1, -1)}),
    Step("rotary-all-at-one-place", len_q=3, len_new=3, lengths=(3, 77, 130),
         rotary="halves"),
    Step("rotary-halves-f16", F16, len_new=1, lengths=(1, 77, 130), rotary="halves",
         page_size=16),
    # A row without keys has its sink all the same: zeros, and the sink as lse.
    Step("sinks", sinks=True),
    Step("sinks-one-split", F16, sinks=True, len_q=2,
         options={"num_splits": 1, "is_causal": True}),
    Step("sinks-many-splits", F16, sinks=True, options={"num_splits": 7}),
    Step("sinks-paged-append", page_size=16, sinks=True, len_new=1,
         lengths=(1, 77, 130), options={"window": (60, 0)}),
    Step("sinks-d256", head_dim=256, head_dim_v=256, sinks=True, left_pads=(0, 5, 33),
         lengths=(5, 40, 33), capacity=40),
    Step("everything", F16, heads_q=6, len_q=4, len_new=4, lengths=(4, 77, 130),
         rotary="halves", rows=(4, 0, 2), slopes="heads", sinks=True,
         options={"is_causal": True, "window": (50, -1), "softcap": 5.0,
                  "num_splits": 3}),
]  # fmt: skip


class Problem:
    """Tensors of a step, the expected results, and what the cache must become."""

    def __init__(self, step: Step) -> None:
        """Draw the tensors, seeded by the step's name."""
        self.step, self.batch = step, len(step.lengths)
        self.generator = torch.Generator().manual_seed(zlib.crc32(step.name.encode()))
        s, size = step, step.head_dim
        self.q = self.draw(self.batch, s.len_q, s.heads_q, size)
        # Of each batch entry: keys and values as long as its cache.
        self.keys = self.draw(self.batch, s.capacity, s.heads_kv, size)
        self.values = self.draw(self.batch, s.capacity, s.heads_kv, s.head_dim_v)
        self.angles = torch.rand(s.capacity, size // 4, generator=self.generator) * 6
        self.angles = self.angles.double()
        self.slopes = None
        if s.slopes:
            shape = [s.heads_q] if s.slopes == "heads" else [self.batch, s.heads_q]
            self.slopes = torch.rand(shape, generator=self.generator) * 0.1
        # The second is none.
        self.sinks = torch.tensor([2.0, -torch.inf, 0.5, -3.0, 9.0, 1.0])[: s.heads_q]
        self.old = [length - s.len_new for length in s.lengths]

    def draw(self, *shape: int) -> Tensor:
        """Draw normal numbers in the step's dtype."""
        return torch.randn(shape, generator=self.generator).to(self.step.dtype)

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate and round as the cache stores it."""
        turned = turn(x.double(), self.angles[positions], self.step.rotary)
        return turned.to(self.step.dtype)

    def final_keys(self, index: int) -> Tensor:
        """Return a batch entry's keys once the new ones are rotated."""
        keys, new = self.keys[index].clone(), self.step.len_new
        if self.step.rotary and new:
            places = torch.arange(self.old[index], self.old[index] + new)
            keys[places] = self.rotated(keys[places], places)
        return keys

    def store(self, sources: list[Tensor], counts: list[int]) -> Tensor:
        """Lay keys out as the cache has them, poison everywhere else."""
        s, shape = self.step, sources[0].shape[1:]
        if not s.page_size:
            cache = torch.full((self.batch + 2 * bool(s.rows), s.capacity, *shape),
                               POISON, dtype=s.dtype)  # fmt: skip
            for index, (source, count) in enumerate(zip(sources, counts)):
                first = s.left_pads[index] if s.left_pads else 0
                row = s.rows[index] if s.rows else index
                cache[row, first:count] = source[first:count]
            return cache
        pages = self.table().numel() + 3
        cache = torch.full((pages, s.page_size, *shape), POISON, dtype=s.dtype)
        for index, (source, count) in enumerate(zip(sources, counts)):
            for place in range(count):
                page = self.table()[index, place // s.page_size]
                cache[page, place % s.page_size] = source[place]
        return cache

    def table(self) -> Tensor:
        """Return pages in an order that is not that of the keys."""
        width = math.ceil(self.step.capacity / self.step.page_size)
        order = torch.arange(self.batch * width).flip(0)
        return order.view(self.batch, width).to(torch.int32) + 1

    def caches(self, counts: list[int], *, is_final: bool) -> tuple[Tensor, Tensor]:
        """Return both caches, holding so many keys, with or without rotation."""
        keys = [self.final_keys(i) if is_final else self.keys[i]
                for i in range(self.batch)]  # fmt: skip
        return self.store(keys, counts), self.store(list(self.values), counts)

    def expected(self) -> tuple[Tensor, Tensor]:
        """Return out and lse in float64, one batch entry after the other."""
        s = self.step
        window = s.options.get("window")
        case = Case(
            s.name, head_dim=s.head_dim, softcap=s.options.get("softcap", 0.0),
            causal="bottom-right" if s.options.get("is_causal") else "none",
            alignment="bottom-right", window=window,
        )  # fmt: skip
        outs, lses = [], []
        for index, length in enumerate(s.lengths):
            first = s.left_pads[index] if s.left_pads else 0
            q = self.q[index]
            if s.rotary:
                places = torch.arange(s.len_q) + self.old[index]
                is_local = s.options.get("is_causal") or window
                q = self.rotated(q, places if is_local else places[:1].expand(s.len_q))
            slopes = self.slopes
            if slopes is not None and slopes.dim() == 2:
                slopes = slopes[index]
            parts = (q, self.final_keys(index)[first:length],
                     self.values[index][first:length])  # fmt: skip
            exact = (t.double().transpose(0, 1).unsqueeze(0) for t in parts)
            sinks = self.sinks.double() if s.sinks else None
            out, lse = attend(case, Part(*exact, None, slopes, sinks, None))
            outs.append(out.transpose(1, 2))
            lses.append(lse)
        return torch.cat(outs), torch.cat(lses)

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """Return the public function's arguments but the first three."""
        s = self.step
        given: dict[str, Any] = dict(s.options)
        numbers = {"cache_seqlens": self.old, "cache_batch_idx": s.rows,
                   "cache_leftpad": s.left_pads}  # fmt: skip
        for name, values in numbers.items():
            if values:
                given[name] = torch.tensor(values, dtype=torch.int32).to(device)
        if s.page_size:
            given["block_table"] = self.table().to(device)
        if self.slopes is not None:
            given["alibi_slopes"] = self.slopes.to(device)
        if s.sinks:
            given["sinks"] = self.sinks.to(device)
        if s.len_new:
            for name, source in (("k", self.keys), ("v", self.values)):
                new = [
                    source[i, old : old + s.len_new] for i, old in enumerate(self.old)
                ]
                given[name] = torch.stack(new).to(device)
        if s.rotary:
            given["rotary_cos"] = self.angles.cos().float().to(device)
            given["rotary_sin"] = self.angles.sin().float().to(device)
            given["rotary_interleaved"] = s.rotary == "interleaved"
        return given


def check(step: Step, device: torch.device) -> None:
    """Run a step on a device and compare results and cache."""
    skip_without(step.dtype, device)
    problem = Problem(step)
    caches = [t.to(device) for t in problem.caches(problem.old, is_final=False)]
    out, lse = orchard_ops.flash_attention_with_kvcache(
        problem.q.to(device), *caches, return_lse=True, **problem.arguments(device)
    )
    want_out, want_lse = problem.expected()
    assert out.dtype == step.dtype
    # A few roundings: of the weights, of the result, and of rotated queries.
    allowed = 3 * FLOOR[step.dtype] * largest(want_out)
    assert largest(out.cpu().double() - want_out) <= allowed
    assert torch.equal(torch.isneginf(lse.cpu()), torch.isneginf(want_lse))
    finite = torch.isfinite(want_lse)
    error = largest((lse.cpu().double() - want_lse)[finite])
    assert error <= (1e-5 if step.dtype == torch.float32 else 5e-3)
    tolerance = FLOOR[step.dtype] * 4
    for cache, want in zip(caches, problem.caches(list(step.lengths), is_final=True)):
        torch.testing.assert_close(
            cache.cpu(), want, rtol=tolerance, atol=tolerance, equal_nan=True
        )


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_matches_float64(step: Step, device: torch.device) -> None:
    """A step gives what the definition gives, and leaves the cache as it must be."""
    check(step, device)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_matches_float64_on_the_cpu(step: Step) -> None:
    """The same on CPU tensors."""
    check(step, torch.device("cpu"))


def test_values_may_be_a_part_of_the_keys(device: torch.device) -> None:
    """Latent attention keeps one cache, whose first dimensions are the values."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 8, 576, generator=generator).half().to(device)
    cache = torch.randn(1, 40, 1, 576, generator=generator).half().to(device)
    values = cache[..., :512]
    attend_to = partial(
        orchard_ops.flash_attention_with_kvcache, q, cache, cache_seqlens=33
    )
    out = attend_to(v_cache=values).cpu()
    assert torch.equal(out, attend_to(v_cache=values.clone()).cpu())
    keys = cache[0, :33, 0].double().cpu()
    weights = torch.softmax(q.double().cpu() @ keys.T / 576**0.5, -1)
    assert largest(out.double() - weights @ keys[:, :512]) < 2e-3


def test_same_bits_on_every_run(device: torch.device) -> None:
    """The parts of the keys are added in their order, whoever finishes first."""
    problem = Problem(STEPS[1])
    caches = [t.to(device) for t in problem.caches(problem.old, is_final=False)]
    results = []
    for seed in (1, 2):
        if device.type == "metalsim":
            orchard_ops.sim.seed(seed)
        results.append(
            orchard_ops.flash_attention_with_kvcache(
                problem.q.to(device), *caches, **problem.arguments(device)
            ).cpu()
        )
    assert torch.equal(*results)


def test_an_int_is_the_length_of_all(device: torch.device) -> None:
    """cache_seqlens=n is a tensor full of n."""
    q, cache = torch.randn(2, 1, 2, 64).to(device), torch.randn(2, 40, 2, 64).to(device)
    lengths = torch.tensor([17, 17], dtype=torch.int32).to(device)
    call = orchard_ops.flash_attention_with_kvcache
    one = call(q, cache, cache, cache_seqlens=17)
    assert torch.equal(one.cpu(), call(q, cache, cache, cache_seqlens=lengths).cpu())


def test_sinks_of_the_drop_in(device: torch.device) -> None:
    """flash_attn_with_kvcache takes sinks as s_aux; one with a gradient is refused."""
    problem = Problem(next(step for step in STEPS if step.name == "sinks"))
    caches = [t.to(device) for t in problem.caches(problem.old, is_final=False)]
    q, given = problem.q.to(device), problem.arguments(device)
    want = orchard_ops.flash_attention_with_kvcache(q, *caches, **given)
    sinks = given.pop("sinks")
    dao: Any = flash_attn.flash_attn_with_kvcache
    assert torch.equal(dao(q, *caches, s_aux=sinks, **given).cpu(), want.cpu())
    with pytest.raises(UnsupportedError, match="gradient"):
        dao(q, *caches, s_aux=sinks.clone().requires_grad_(), **given)


COMPILED = [
    step
    for step in STEPS
    if step.name in ("f32", "paged", "rows", "rotary-halves-f16", "everything")
]


@pytest.mark.skipif(TORCH < (2, 4), reason="torch.compile traces it from 2.4 on")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("step", COMPILED, ids=lambda step: step.name)
def test_compiled(step: Step, dynamic: bool, device: torch.device) -> None:
    """torch.compile takes a step in one graph; cache and results keep their bits."""
    problem = Problem(step)

    def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, given: Any) -> Any:
        return orchard_ops.flash_attention_with_kvcache(
            q, k_cache, v_cache, return_lse=True, **given
        )

    torch._dynamo.reset()
    results = []
    for call in (decode, torch.compile(decode, backend="aot_eager", fullgraph=True,
                                       dynamic=dynamic)):  # fmt: skip
        caches = [t.to(device) for t in problem.caches(problem.old, is_final=False)]
        found = call(problem.q.to(device), *caches, problem.arguments(device))
        results.append([t.cpu() for t in (*found, *caches)])
    for eager, compiled in zip(*results):
        assert torch.equal(eager.nan_to_num(7.0), compiled.nan_to_num(7.0))


@pytest.mark.skipif(TORCH < (2, 4), reason="torch.export is stable from 2.4 on")
def test_exported(device: torch.device) -> None:
    """torch.export keeps a step as operators."""
    q, cache = torch.randn(2, 1, 2, 64).to(device), torch.randn(2, 40, 2, 64).to(device)

    class Decode(torch.nn.Module):
        def forward(self, q: Tensor, cache: Tensor) -> Any:
            return orchard_ops.flash_attention_with_kvcache(
                q, cache, cache, cache_seqlens=17
            )

    exported = torch.export.export(Decode(), (q, cache)).module()
    assert torch.equal(exported(q, cache).cpu(), Decode()(q, cache).cpu())


WRONG: dict[str, tuple[type[OrchardError], dict[str, Any]]] = {
    "k-without-v": (InvalidProblemError, {"k": (2, 1, 2, 64)}),
    "k-of-other-heads": (InvalidProblemError, {"k": (2, 1, 3, 64), "v": (2, 1, 3, 64)}),
    "rotary-without-k": (InvalidProblemError, {"rotary_cos": (40, 32)}),
    "lengths-of-others": (InvalidProblemError, {"cache_seqlens": (3,)}),
    "table-and-left-pads": (
        UnsupportedError, {"block_table": (2, 1), "cache_leftpad": (2,)}),
    "table-of-three-dimensions": (InvalidProblemError, {"block_table": (2, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_refuses(name: str, device: torch.device) -> None:
    """Arguments that do not fit together are refused before anything runs."""
    error, shapes = WRONG[name]
    q, cache = torch.randn(2, 1, 2, 64).to(device), torch.randn(2, 40, 2, 64).to(device)
    given: dict[str, Any] = {"cache_seqlens": 3}
    for key, shape in shapes.items():
        is_whole = key.startswith(("cache", "block"))
        dtype = torch.int32 if is_whole else torch.float32
        given[key] = torch.zeros(shape, dtype=dtype).to(device)
    before = cache.cpu()
    with pytest.raises(error, match="flash_attention_with_kvcache"):
        orchard_ops.flash_attention_with_kvcache(q, cache, cache, **given)
    assert torch.equal(cache.cpu(), before)


def test_pages_of_an_odd_size_are_refused(device: torch.device) -> None:
    """A page must hold a multiple of eight keys."""
    q, cache = torch.randn(1, 1, 2, 64).to(device), torch.randn(4, 12, 2, 64).to(device)
    table = torch.zeros(1, 4, dtype=torch.int32).to(device)
    with pytest.raises(InvalidProblemError, match="multiple of 8 keys, got 12"):
        orchard_ops.flash_attention_with_kvcache(
            q, cache, cache, cache_seqlens=5, block_table=table
        )


def test_gradients_are_refused(device: torch.device) -> None:
    """Decoding is inference: a tensor that wants a gradient is an error."""
    q, cache = torch.randn(1, 1, 2, 64).to(device), torch.randn(1, 40, 2, 64).to(device)
    with pytest.raises(UnsupportedError, match=r"torch\.no_grad"):
        orchard_ops.flash_attention_with_kvcache(
            q.requires_grad_(), cache, cache, cache_seqlens=5
        )


def test_no_keys_launch_nothing(device: torch.device) -> None:
    """An empty cache gives zeros, and lse the sinks."""
    q, cache = torch.randn(2, 1, 4, 16).to(device), torch.zeros(2, 0, 2, 16).to(device)
    sinks = torch.randn(4).to(device)
    if device.type == "metalsim":
        orchard_ops.sim.reset_counters()
    out, lse = orchard_ops.flash_attention_with_kvcache(
        q, cache, cache, cache_seqlens=0, sinks=sinks, return_lse=True
    )
    assert not out.cpu().any()
    assert torch.equal(lse.cpu(), sinks.cpu().view(1, 4, 1).expand(2, 4, 1))
    if device.type == "metalsim":
        assert orchard_ops.sim.counters()["launches"] == 0
