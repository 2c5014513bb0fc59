"""Attention of some rows to some columns: parts of a whole, merged, are the whole."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import philox
import pytest
import torch
from cases import BF16, F16, F32, Case, Mask
from draws import Inputs
from harness import run_case
from needs import TORCH, chosen_device, skip_without
from reference import Results, assert_close, make_inputs, solve
from torch import Tensor

import orchard_ops
from orchard_ops import (
    InvalidProblemError,
    UnsupportedError,
    _native,
    flash_attention,
    flash_attention_partial,
    flash_attention_partial_backward,
    merge_partials,
    sim,
    sink_gradient,
)

# Off the multiples of 8 and of 32 that tiles and dropout count in, and one is empty.
CUTS = (0, 13, 13, 50, 70)
ALIGNED = (0, 32, 64, 70)
GRADIENTS = ("dq", "dk", "dv")
BASE = Case("", batch=2, heads_q=2, heads_kv=2, len_q=70, len_kv=70, head_dim=40)
PACKED = replace(
    BASE, batch=1, sequences=((20, 20), (0, 0), (37, 37), (1, 1), (9, 9)), rest=3
)


def named(prefix: str, base: Case, **changes: dict[str, Any]) -> list[Case]:
    """Return cases that differ from one, every other with a gradient of lse."""
    return [
        replace(base, name=f"{prefix}-{name}", grad_lse=i % 2 == 1, **change)
        for i, (name, change) in enumerate(changes.items())
    ]


CASES = [
    *named(
        "partial",
        BASE,
        f32={},
        f16=dict(dtype=F16),
        bf16=dict(dtype=BF16),
        causal=dict(causal="top-left"),
        causal_f16=dict(causal="top-left", dtype=F16, heads_q=4),
        window=dict(window=(9, 5)),
        window_bf16=dict(window=(20, 0), dtype=BF16),
        alibi=dict(alibi="heads"),
        alibi_causal_f16=dict(alibi="batch-heads", causal="top-left", dtype=F16),
        softcap=dict(softcap=2.0, causal="top-left"),
        bool_mask=dict(mask=Mask(hidden="tiles")),
        bool_mask_f16=dict(mask=Mask(dims="bk", hidden="columns"), dtype=F16),
        bias=dict(mask=Mask("float"), causal="top-left"),
        bias_shared=dict(mask=Mask("float", "hk", hidden="columns"), heads_q=4),
        bias_rank_2_f16=dict(mask=Mask("float32", "qk", rank=2), dtype=F16),
        gqa=dict(heads_q=6, causal="top-left"),
        narrow_values_bf16=dict(head_dim_v=24, dtype=BF16),
        wide_values_f16=dict(head_dim=64, head_dim_v=128, dtype=F16),
        odd_heads_f16=dict(head_dim=33, head_dim_v=17, dtype=F16),
        more_keys=dict(len_q=31, window=(30, -1)),
        transposed_f16=dict(layout="transposed", dtype=F16, causal="top-left"),
        sliced_f16=dict(layout="sliced", dtype=F16),
        dropout=dict(dropout=0.3, causal="top-left"),
        dropout_f16=dict(dropout=0.3, dtype=F16, heads_q=4),
        sinks=dict(sinks="normal", causal="top-left"),
        sinks_dead_f16=dict(sinks="-inf", mask=Mask(hidden="rows"), dtype=F16),
        all=dict(mask=Mask("float", "bqk"), window=(30, 11), softcap=3.0, heads_q=4,
                 alibi="heads", sinks="normal", dropout=0.2),
    ),
    *named(
        "partial-packed",
        PACKED,
        f32={},
        causal_f16=dict(causal="top-left", dtype=F16, heads_q=4),
        window_bf16=dict(window=(6, 2), dtype=BF16),
        dropout=dict(dropout=0.3, causal="top-left"),
        all_f16=dict(window=(12, 3), softcap=3.0, alibi="batch-heads", dropout=0.2,
                     sinks="normal", dtype=F16),
    ),
]  # fmt: skip


@pytest.fixture(params=["cpu", "gpu"])
def where(request: pytest.FixtureRequest) -> torch.device:
    """Return the CPU, whose operators compute parts too, and the device."""
    return torch.device("cpu" if request.param == "cpu" else chosen_device())


def pieces(cuts: tuple[int, ...], length: int) -> list[slice]:
    """Return the pieces of a length that begin and end at cuts, and its end."""
    ends = sorted({*cuts[2:], length})
    ends = [cuts[1], *(end for end in ends if end <= length)]
    return [slice(begin, end) for begin, end in zip((0, *ends), ends)]


def at(mask: Tensor | None, rows: slice, columns: slice) -> Any:
    """Index the part of a mask, which may be one for all rows or columns."""
    if mask is None:
        return None
    axes = [rows, columns]
    index = [
        slice(None) if size == 1 else axis
        for size, axis in zip(mask.shape[-2:], axes[-len(mask.shape) :])
    ]
    return (..., *index)


class Whole:
    """A case's tensors on a device, as ``[batch, heads, length, head_dim]``."""

    def __init__(self, case: Case, inputs: Inputs, device: torch.device) -> None:
        """Copy them there."""
        skip_without(case.dtype, device)
        self.case = case
        self.is_packed = bool(case.sequences)
        q, k, v, grad_out = (self._put(t, device) for t in inputs.core)
        self.q, self.k, self.v, self.grad_out = q, k, v, grad_out
        grad_lse = inputs.grad_lse
        if grad_lse is not None:
            grad_lse = (grad_lse[None] if self.is_packed else grad_lse).to(device)
        self.grad_lse = grad_lse
        mask, sinks = inputs.attn_mask, inputs.sinks
        self.mask = None if mask is None else mask.to(device)
        self.sinks = None if sinks is None else sinks.to(device)
        self.slopes = inputs.alibi_slopes
        if self.slopes is not None:
            self.slopes = self.slopes.to(device)
        self.options: dict[str, Any] = dict(
            is_causal=case.causal != "none", window=case.window, scale=case.scale,
            softcap=case.softcap, alibi_slopes=self.slopes, dropout_p=case.dropout,
        )  # fmt: skip
        if case.dropout:
            self.options["seed"] = torch.tensor(philox.draw_seed(case.manual_seed))
        if self.is_packed:
            starts = [0, *itertools.accumulate(each for each, _ in case.sequences)]
            self.options["cu_seqlens"] = torch.tensor(starts, dtype=torch.int32).to(
                device
            )

    def _put(self, tensor: Tensor, device: torch.device) -> Tensor:
        if self.is_packed:
            tensor = tensor.transpose(0, 1)[None]
        if self.case.layout == "sliced":  # only single elements are aligned
            padded = torch.nn.functional.pad(tensor, (1, 2, 1, 2))
            return padded.to(device)[..., 1:-2, 1:-2]
        if self.case.layout == "transposed" or self.is_packed:
            return tensor.transpose(1, 2).contiguous().to(device).transpose(1, 2)
        return tensor.to(device)

    def arguments(self, rows: slice, columns: slice) -> dict[str, Any]:
        """Return the options of a part."""
        index = at(self.mask, rows, columns)
        mask = None if self.mask is None else self.mask[index]
        if mask is not None and mask.is_floating_point():
            mask = mask.detach().requires_grad_()
        return dict(
            self.options, attn_mask=mask, q_offset=rows.start, k_offset=columns.start
        )


def in_parts(
    case: Case,
    inputs: Inputs,
    device: torch.device,
    cuts: tuple[int, ...] = CUTS,
    **more: Any,
) -> Results:
    """Compute a case's results and gradients a pair of pieces at a time."""
    whole = Whole(case, inputs, device)
    q, k, v = whole.q, whole.k, whole.v
    all_rows, all_columns = pieces(cuts, q.size(2)), pieces(cuts, k.size(2))
    merged = []
    for rows in all_rows:
        parts = [
            flash_attention_partial(
                q[:, :, rows], k[:, :, columns], v[:, :, columns],
                **whole.arguments(rows, columns), **more,
            )
            for columns in all_columns
        ]  # fmt: skip
        merged.append(merge_partials(parts, whole.sinks))
    out, lse = (torch.cat(each, 2) for each in zip(*merged))
    compute = torch.promote_types(case.dtype, F32)
    assert out.dtype == lse.dtype == compute
    sums = [torch.zeros(t.shape, dtype=compute, device=device) for t in (q, k, v)]
    has_dmask = whole.mask is not None and whole.mask.is_floating_point()
    dmask = torch.zeros_like(whole.mask, dtype=F32) if has_dmask else None
    for rows, columns in itertools.product(all_rows, all_columns):
        options = whole.arguments(rows, columns)
        if whole.grad_lse is not None:
            options["grad_lse"] = whole.grad_lse[:, :, rows].contiguous()
        dq, dk, dv, dmask_part = flash_attention_partial_backward(
            whole.grad_out[:, :, rows], out[:, :, rows], lse[:, :, rows],
            q[:, :, rows], k[:, :, columns], v[:, :, columns], **options, **more,
        )  # fmt: skip
        assert dq.dtype == dk.dtype == dv.dtype == compute
        for total, index, part in zip(sums, (rows, columns, columns), (dq, dk, dv)):
            total[:, :, index] += part
        assert (dmask_part is not None) == has_dmask
        if has_dmask:
            dmask[at(whole.mask, rows, columns)] += dmask_part
    dsinks = None
    if whole.sinks is not None:
        dsinks = sink_gradient(whole.grad_out, out, lse, whole.sinks, whole.grad_lse)
    found = [t.cpu() for t in (out, *sums)]
    lse = lse.cpu()
    if whole.is_packed:
        found = [t[0].transpose(0, 1) for t in found]
        lse = lse[0]
    out, dq, dk, dv = found
    dmask, dsinks = (None if t is None else t.cpu() for t in (dmask, dsinks))
    return Results(out, lse, dq, dk, dv, dmask, dsinks)


def check(
    case: Case,
    inputs: Inputs,
    device: torch.device,
    cuts: tuple[int, ...] = CUTS,
    **more: Any,
) -> Results:
    """Compare what parts give with the definition; return it rounded to the dtype."""
    found = in_parts(case, inputs, device, cuts, **more)
    found = replace(
        found,
        **{name: getattr(found, name).to(case.dtype) for name in ("out", *GRADIENTS)},
    )
    if found.dmask is not None:
        found = replace(found, dmask=found.dmask.to(inputs.attn_mask.dtype))
    if case.sequences and case.sinks:
        # Merging cannot tell rows of no sequence from rows that see no key.
        found.lse[:, -case.rest :] = -math.inf
    assert_close(case, inputs, found)
    return found


@pytest.fixture(autouse=True)
def _strict() -> Any:
    torch.manual_seed(0)
    if chosen_device() != "metalsim":
        yield
        return
    with sim.strict():
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parts_are_the_whole(case: Case, where: torch.device) -> None:
    """Merged results and summed gradients are those of the definition."""
    check(case, make_inputs(case), where)


@pytest.mark.parametrize("base", [BASE, PACKED], ids=["dense", "packed"])
@pytest.mark.parametrize("cuts", [ALIGNED, (0, 8, 40, 70)], ids=["by-32", "by-8"])
def test_dropout_is_the_wholes(
    base: Case, cuts: tuple[int, ...], where: torch.device
) -> None:
    """Wherever parts begin, the same weights are dropped."""
    case = replace(base, name="partial-dropout-cuts", dropout=0.4)
    check(case, make_inputs(case), where, cuts)


def test_the_cpu_draws_the_kept_weights_of_a_part() -> None:
    """The operator gives the part of the whole's mask."""
    seed = 2**62 + 5
    whole = philox.keep_mask(seed, 0.4, (3, 6, 40, 90), 2)
    rows, columns, heads = slice(7, 29), slice(37, 90), slice(2, 5)
    part = _native.ops.keep_mask(
        torch.tensor(seed), 0.4, (3, 3, 22, 53), 2, (7, 37, 2, 6)
    )
    assert torch.equal(part, whole[:, heads, rows, columns])


def test_heads_may_be_some_of_the_wholes(where: torch.device) -> None:
    """Dropout counts the heads of the whole."""
    case = replace(BASE, name="partial-heads", dropout=0.3, heads_q=4, alibi="heads")
    inputs = make_inputs(case)
    whole = solve(case, inputs)
    for head in (0, 1):
        few, one = slice(2 * head, 2 * head + 2), slice(head, head + 1)
        part = replace(
            inputs,
            q=inputs.q[:, few], k=inputs.k[:, one], v=inputs.v[:, one],
            grad_out=inputs.grad_out[:, few], alibi_slopes=inputs.alibi_slopes[few],
            keep=tuple(keep[:, few] for keep in inputs.keep),
        )  # fmt: skip
        of_part = replace(case, heads_q=2, heads_kv=1)
        found = check(of_part, part, where, head_offset=2 * head, heads_total=4)
        torch.testing.assert_close(found.out.double(), whole.out[:, few], atol=1e-5,
                                   rtol=0)  # fmt: skip


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=["f16", "bf16", "f32"])
def test_errors_do_not_grow_with_the_number_of_parts(
    dtype: torch.dtype, where: torch.device
) -> None:
    """Parts are not rounded: eight are as near to float64 as one, and as the whole."""
    case = replace(BASE, name="partial-count", dtype=dtype, len_q=128, len_kv=128)
    inputs = make_inputs(case)
    exact = solve(case, inputs)

    def errors(found: Results) -> dict[str, float]:
        return {
            name: float((getattr(found, name).double() - want).abs().max())
            for name, want in exact.items()
        }

    by_count = {
        count: errors(in_parts(case, inputs, where, tuple(range(0, 129, 128 // count))))
        for count in (1, 2, 8)
    }
    of_whole = errors(run_case(case, inputs, where))
    for count, (name, want) in itertools.product((2, 8), exact.items()):
        # A float32 sum of eight has its own last places.
        floor = 4e-7 * float(want.abs().max())
        assert by_count[count][name] <= 1.2 * by_count[1][name] + floor, (count, name)
        assert by_count[count][name] <= 2.0 * of_whole[name] + floor, (count, name)


@pytest.mark.parametrize("scratch", [0, 1 << 28], ids=["recomputed", "spilled"])
@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=["f16", "bf16", "f32"])
def test_parts_with_and_without_scratch(
    dtype: torch.dtype, scratch: int, device: torch.device
) -> None:
    """The gradients of scores may be kept, also of a mask, or computed anew."""
    case = replace(
        BASE, name="partial-scratch", dtype=dtype, mask=Mask("float", "hqk"),
        window=(25, 9),
    )  # fmt: skip
    with orchard_ops.backward_scratch(scratch):
        check(case, make_inputs(case), device)


def test_parts_in_several_launches(device: torch.device) -> None:
    """Walks that are cut go on where they were."""
    case = replace(
        BASE, name="partial-cut", dtype=F16, mask=Mask("float", "qk"), heads_q=4,
        causal="top-left",
    )  # fmt: skip
    before = _native.ops.longest_launch()
    _native.ops.set_longest_launch(1e-12)
    try:
        check(case, make_inputs(case), device)
    finally:
        _native.ops.set_longest_launch(before)


def draw(*shape: int, device: torch.device, dtype: torch.dtype = F32) -> Tensor:
    """Return numbers on a device."""
    return torch.randn(shape, dtype=dtype).to(device)


def test_what_sees_nothing_is_zero(where: torch.device) -> None:
    """Keys behind the last query give zeros and -inf, and no gradient."""
    q, k, v = (draw(1, 2, 20, 16, device=where) for _ in range(3))
    options = dict(is_causal=True, q_offset=40, k_offset=60)
    out, lse = flash_attention_partial(q, k, v, **options)
    assert not out.any()
    assert (lse == -math.inf).all()
    merged, merged_lse = merge_partials([(out, lse), (out, lse)])
    assert not merged.any()
    assert (merged_lse == -math.inf).all()
    found = flash_attention_partial_backward(q, merged, merged_lse, q, k, v, **options)
    assert all(not t.any() for t in found[:3])
    sinks = torch.tensor([0.5, -math.inf]).to(where)
    merged, merged_lse = merge_partials([(out, lse)], sinks)
    whole = torch.zeros(1, 1, 20, 20, dtype=torch.bool).to(where)
    expected = flash_attention(q, k, v, whole, sinks=sinks, return_lse=True)
    assert torch.equal(merged.cpu(), expected[0].cpu())
    assert torch.equal(merged_lse.cpu(), expected[1].cpu())


def test_positions_may_be_far(where: torch.device) -> None:
    """Offsets and windows reach as far as lengths do."""
    far = 2**29 - 64
    q, k, v = (draw(1, 2, 20, 16, device=where) for _ in range(3))
    whole = flash_attention(q, k, v, return_lse=True)
    for options in (
        dict(is_causal=True, q_offset=far),
        dict(window=(2**40, 2**40), q_offset=far),
        dict(window=(-1, 2**29), k_offset=far),
        dict(window=(2**29, 2**29), k_offset=far),
    ):
        found = flash_attention_partial(q, k, v, **options)
        for part, expected in zip(found, whole):
            torch.testing.assert_close(part.cpu(), expected.cpu())
    near = flash_attention(q, k, v, window=(3, 2), return_lse=True)
    options = dict(window=(3, 2), q_offset=far, k_offset=far)
    for part, expected in zip(flash_attention_partial(q, k, v, **options), near):
        torch.testing.assert_close(part.cpu(), expected.cpu())


@pytest.mark.parametrize("length", [0, 5])
def test_empty_parts(length: int, where: torch.device) -> None:
    """No rows or no columns: results and gradients of the right shapes."""
    q = draw(1, 2, length, 16, device=where)
    k = draw(1, 2, 5 - length, 16, device=where)
    mask = torch.zeros(length, 5 - length, requires_grad=True, device=where)
    out, lse = flash_attention_partial(q, k, k, mask, q_offset=3)
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]
    assert not out.any()
    found = flash_attention_partial_backward(q, out, lse, q, k, k, mask, q_offset=3)
    assert [t.shape for t in found] == [q.shape, k.shape, k.shape, mask.shape]
    assert all(not t.any() for t in found)


def test_float64_stays_on_the_cpu() -> None:
    """What one measures by is computed in float64, lse too."""
    case = replace(BASE, name="partial-f64", dtype=torch.float64, causal="top-left")
    inputs = make_inputs(case)
    found, exact = in_parts(case, inputs, torch.device("cpu")), solve(case, inputs)
    for name, want in exact.items():
        torch.testing.assert_close(getattr(found, name), want, atol=1e-12, rtol=1e-12)


def test_nothing_is_recorded(where: torch.device) -> None:
    """Gradients are the caller's to ask for."""
    q, k, v = (draw(1, 2, 9, 16, device=where).requires_grad_() for _ in range(3))
    out, lse = flash_attention_partial(q, k, v)
    assert not out.requires_grad
    assert not lse.requires_grad
    found = flash_attention_partial_backward(q, out, lse, q, k, v)
    assert not any(t.requires_grad for t in found[:3])
    assert found[3] is None


def test_parts_merge_in_any_order(where: torch.device) -> None:
    """Merged parts are parts again."""
    q, k, v = (draw(2, 2, 40, 16, device=where) for _ in range(3))
    parts = [
        flash_attention_partial(q, k[:, :, c], v[:, :, c], k_offset=c.start)
        for c in (slice(0, 9), slice(9, 30), slice(30, 40))
    ]
    at_once = merge_partials(parts)
    by_two = merge_partials([parts[2], merge_partials(parts[:2])])
    for a, b in zip(at_once, by_two):
        torch.testing.assert_close(a.cpu(), b.cpu(), atol=1e-6, rtol=1e-6)
    for a, b in zip(merge_partials(parts[:1]), parts[0]):
        torch.testing.assert_close(a.cpu(), b.cpu(), atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(TORCH < (2, 4), reason="torch.compile traces it from 2.4 on")
@pytest.mark.parametrize("seed", [None, torch.tensor(7)], ids=["plain", "dropout"])
def test_compiles_in_one_graph(seed: Tensor | None, device: torch.device) -> None:
    """torch.compile takes the three steps; the bits are those without it."""
    q = draw(1, 2, 20, 16, device=device, dtype=F16)
    options = dict(is_causal=True, q_offset=9, k_offset=3, seed=seed)
    options["dropout_p"] = 0.0 if seed is None else 0.5

    def attend(q: Tensor) -> tuple[Tensor, ...]:
        part = flash_attention_partial(q, q, q, **options)
        out, lse = merge_partials([part, part])
        found = flash_attention_partial_backward(out, out, lse, q, q, q, **options)
        return out, lse, *found[:3]

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(q), attend(q)):
        assert torch.equal(got.cpu(), expected.cpu())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(q_offset=-1), r"expected q_offset from 0 to 536870912, got -1"),
        (dict(k_offset=2**29 - 3), r"expected k_offset \+ len_kv from 0 to"),
        (dict(q_offset=2**40), r"expected q_offset from 0 to"),
        (dict(q_offset=1.5), r"expected q_offset to be an int, got 1.5"),
        (dict(head_offset=1), r"expected head_offset \+ heads_q of at most heads_tot"),
        (dict(head_offset=-1), r"expected head_offset from 0 on"),
        (dict(heads_total=2**21), r"heads_total up to"),
        (dict(dropout_p=0.5), r"expected a seed with dropout_p"),
        (dict(dropout_p=0.5, seed=torch.tensor([1, 2])), "seed to be one int64"),
        (dict(dropout_p=0.5, seed=torch.tensor(1).int()), "seed to be one int64"),
        (dict(dropout_p=0.5, seed=3), r"expected seed to be a torch.Tensor"),
        (dict(k=torch.zeros(8, 16)), r"nothing broadcasts here"),
        (dict(v=torch.zeros(1, 1, 8, 16)), r"nothing broadcasts here"),
        (dict(q=torch.zeros(2, 2, 8, 16)), r"nothing broadcasts here"),
        (dict(attn_mask=torch.zeros(3, 8)), r"expected attn_mask to broadcast"),
        (dict(cu_seqlens=torch.tensor([0, 8])), r"expected cu_seqlens to be int32"),
        (dict(window=(1, -2)), r"expected each side of window"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_wrong_arguments_are_refused(
    change: dict[str, Any], words: str, where: torch.device
) -> None:
    """The same words on every device, forward and backward, before anything runs."""
    given: dict[str, Any] = dict.fromkeys(("q", "k", "v"), torch.zeros(1, 2, 8, 16))
    given.update(change)
    given = {
        name: x.to(where) if isinstance(x, Tensor) else x for name, x in given.items()
    }
    name = r"\[flash_attention_partial\] .*"
    with pytest.raises(InvalidProblemError, match=name + words):
        flash_attention_partial(**given)
    merged = torch.zeros(1, 2, 8, 16).to(where), torch.zeros(1, 2, 8).to(where)
    name = r"\[flash_attention_partial_backward\] .*"
    with pytest.raises(InvalidProblemError, match=name):
        flash_attention_partial_backward(merged[0], *merged, **given)


def test_a_seed_on_the_device_is_refused(device: torch.device) -> None:
    """Reading it would wait for all that the device still does."""
    q = torch.zeros(1, 2, 8, 16).to(device)
    with pytest.raises(InvalidProblemError, match="expected seed on the CPU"):
        flash_attention_partial(q, q, q, dropout_p=0.5, seed=torch.tensor(7).to(device))


@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_nested_parts_are_refused() -> None:
    """Sequences of a part are packed."""
    nested = torch.nested.nested_tensor([torch.zeros(2, 8, 16)])
    with pytest.raises(UnsupportedError, match="dense tensor, got a nested one"):
        flash_attention_partial(nested, nested, nested)


def test_merged_results_must_fit(where: torch.device) -> None:
    """The backward looks at what it is given beside q."""
    q = draw(1, 2, 8, 16, device=where)
    lse = torch.zeros(1, 2, 8).to(where)
    for change in (
        dict(out=q[:, :1]),
        dict(out=q.double() if where.type == "cpu" else q.cpu()),
        dict(grad_out=q[..., :3]),
        dict(lse=lse.half()),
        dict(lse=lse[..., :2]),
        dict(grad_lse=lse[..., :2]),
    ):
        given = dict(dict(grad_out=q, out=q, lse=lse), **change)
        (label,) = change
        words = rf"\[flash_attention_partial_backward\] expected {label} of shape"
        with pytest.raises(InvalidProblemError, match=words):
            flash_attention_partial_backward(**given, q=q, k=q, v=q)


def test_what_cannot_be_merged_is_refused() -> None:
    """Parts are of one shape and in float32."""
    out, lse = torch.zeros(1, 2, 8, 16), torch.zeros(1, 2, 8)
    for parts in ([(out, lse[..., :2])], [(out.half(), lse.half())],
                  [(out, lse), (out[:, :1], lse[:, :1])]):  # fmt: skip
        with pytest.raises(InvalidProblemError, match="expected each out as the first"):
            merge_partials(parts)
    with pytest.raises(InvalidProblemError, match="expected at least one part"):
        merge_partials([])
    for call in (
        lambda sinks: merge_partials([(out, lse)], sinks),
        lambda sinks: sink_gradient(out, out, lse, sinks),
    ):
        with pytest.raises(InvalidProblemError, match=r"sinks of shape \[heads_q\]"):
            call(torch.zeros(3))
    with pytest.raises(InvalidProblemError, match="grad_out and out of one shape"):
        sink_gradient(out, out[..., :3], lse, torch.zeros(2))


def test_wrong_beginnings_are_refused_on_the_cpu() -> None:
    """Numbers in cu_seqlens, which a device would have to be waited for."""
    q = torch.zeros(1, 2, 8, 16)
    for starts in ([1, 8], [0, 5, 3]):
        with pytest.raises(InvalidProblemError, match="cu_seqlens to rise from 0"):
            flash_attention_partial(
                q, q, q, cu_seqlens=torch.tensor(starts, dtype=torch.int32)
            )


def test_the_longest_sequence_may_be_known(where: torch.device) -> None:
    """The results are the same with its length; the CPU checks that."""
    q, k, v = (draw(1, 2, 60, 16, device=where) for _ in range(3))
    starts = torch.tensor([0, 9, 30, 49, 70], dtype=torch.int32).to(where)
    options = dict(cu_seqlens=starts, q_offset=4, k_offset=10, window=(30, 3))

    def attend(**more: int) -> list[Tensor]:
        out, lse = flash_attention_partial(q, k, v, **options, **more)
        gradients = flash_attention_partial_backward(
            q, out, lse, q, k, v, **options, **more
        )
        return [out, lse, *gradients[:3]]

    for known, found in zip(attend(max_seqlen=21), attend()):
        torch.testing.assert_close(known.cpu(), found.cpu(), atol=1e-6, rtol=1e-6)
    if where.type == "cpu":
        words = "expected max_seqlen to be the longest sequence's length 21, got 20"
        with pytest.raises(InvalidProblemError, match=words):
            attend(max_seqlen=20)


def test_the_operator_takes_no_sinks_in_a_part(device: torch.device) -> None:
    """Nor the other alignment, nor places before the whole: Python asks for none."""
    q, sinks = draw(1, 2, 8, 16, device=device), torch.zeros(2).to(device)
    part = (0, 0, 0, 2)
    for options, words in (
        (dict(sinks=sinks), "expected no sinks with a part"),
        (dict(is_bottom_right=True), "got bottom-right"),
        (dict(part=(0, 0)), "got 2 numbers|expected exactly|must be|Expected"),
        (dict(part=(-1, 0, 0, 2)), "expected q_offset from 0 to .*, got -1"),
        (dict(part=(0, -1, 0, 2)), "expected k_offset from 0 to .*, got -1"),
        (dict(part=(0, 0, -1, 2)), "expected head_offset from 0 on .*, got -1"),
    ):
        with pytest.raises(RuntimeError, match=words):
            _native.ops.forward(q, q, q, **dict(dict(part=part), **options))
