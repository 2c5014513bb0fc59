"""Which types an argument may have: integers of any kind, and dense tensors alone."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
import torch
from needs import TORCH
from torch import Tensor

import orchard_ops
from orchard_ops import InvalidProblemError, OrchardError, UnsupportedError, flash_attn
from orchard_ops._arguments.checks import count_of
from orchard_ops.flash_attn import bert_padding


@pytest.fixture(params=["device", "cpu"])
def place(request: pytest.FixtureRequest, device: torch.device) -> torch.device:
    """Run a test on the device, and with CPU tensors."""
    return device if request.param == "device" else torch.device("cpu")


def draw(*shape: int) -> Tensor:
    """Return random numbers, the same in every test."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def ends(*numbers: int) -> Tensor:
    """Return where packed sequences begin and end."""
    return torch.tensor(numbers, dtype=torch.int32)


# Each public function with valid arguments.
DENSE = dict(q=draw(1, 2, 8, 64), k=draw(1, 2, 8, 64), v=draw(1, 2, 8, 64))
LENGTHS = dict(cu_seqlens_q=ends(0, 3, 8), cu_seqlens_k=ends(0, 3, 8))
PACKED = dict(q=draw(8, 2, 64), k=draw(8, 2, 64), v=draw(8, 2, 64), **LENGTHS,
              max_seqlen_q=5, max_seqlen_k=5)  # fmt: skip
CACHE = dict(q=draw(2, 1, 2, 64), k_cache=draw(2, 16, 2, 64),
             v_cache=draw(2, 16, 2, 64), cache_seqlens=9)  # fmt: skip
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "flash_attention": (orchard_ops.flash_attention, DENSE),
    "flash_attn_fwd": (orchard_ops.flash_attn_fwd, {**DENSE, "scale": 0.5}),
    "flash_attention_varlen": (orchard_ops.flash_attention_varlen, PACKED),
    "flash_attention_with_kvcache": (orchard_ops.flash_attention_with_kvcache, CACHE),
    "flash_attn_func": (
        flash_attn.flash_attn_func, {n: t.transpose(1, 2) for n, t in DENSE.items()}),
    "flash_attn_qkvpacked_func": (
        flash_attn.flash_attn_qkvpacked_func, {"qkv": draw(1, 8, 3, 2, 64)}),
    "flash_attn_kvpacked_func": (
        flash_attn.flash_attn_kvpacked_func,
        {"q": DENSE["q"], "kv": draw(1, 2, 2, 8, 64)}),
    "flash_attn_varlen_func": (flash_attn.flash_attn_varlen_func, PACKED),
    "flash_attn_with_kvcache": (flash_attn.flash_attn_with_kvcache, CACHE),
}  # fmt: skip


def call(name: str, place: torch.device, **changes: Any) -> Tensor:
    """Call a function with its valid arguments, some of them changed."""
    function, given = CALLS[name]
    moved = {
        key: value.to(place) if isinstance(value, Tensor) else value
        for key, value in {**given, **changes}.items()
    }
    out = function(**moved)
    return out[0] if isinstance(out, tuple) else out


WINDOWS = {
    "list": [3, 2],
    "tensor": torch.tensor([3, 2]),
    "array": np.array([3, 2]),
    "tensors": (torch.tensor(3), torch.tensor(2, dtype=torch.int8)),
    "NumPy's integers": (np.int64(3), np.uint8(2)),
}
WINDOW_NAMES = {
    "flash_attention": "window",
    "flash_attention_varlen": "window",
    "flash_attention_with_kvcache": "window",
    "flash_attn_func": "window_size",
    "flash_attn_varlen_func": "window_size",
    "flash_attn_with_kvcache": "window_size",
}


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("name", WINDOW_NAMES)
def test_a_window_is_any_two_integers(
    name: str, kind: str, place: torch.device
) -> None:
    """What has __index__ is an integer, whatever holds the two."""
    label = WINDOW_NAMES[name]
    want = call(name, place, **{label: (3, 2)})
    got = call(name, place, **{label: WINDOWS[kind]})
    assert torch.equal(got.cpu(), want.cpu())
    assert not torch.equal(got.cpu(), call(name, place).cpu())


INTEGERS = {
    "flash_attention_varlen": {"max_seqlen_q": 5, "max_seqlen_k": 5},
    "flash_attn_varlen_func": {"max_seqlen_q": 5, "max_seqlen_k": 5},
    "flash_attention_with_kvcache": {"cache_seqlens": 9, "num_splits": 2},
    "flash_attn_with_kvcache": {"cache_seqlens": 9, "num_splits": 2},
}


@pytest.mark.parametrize("make", [np.int32, torch.tensor], ids=["NumPy", "tensor"])
@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_is_what_has_an_index(
    name: str, make: Callable[[int], Any], place: torch.device
) -> None:
    """NumPy's integers and tensors of one are as good as Python's."""
    numbers = INTEGERS[name]
    want = call(name, place, **numbers)
    given = {label: make(number) for label, number in numbers.items()}
    assert torch.equal(call(name, place, **given).cpu(), want.cpu())


@pytest.mark.parametrize("name", bert_padding.__all__)
def test_padding_takes_dense_tensors(name: str) -> None:
    """The same for the functions around packed sequences."""
    with pytest.raises(UnsupportedError, match=f"{name}.*dense tensor"):
        getattr(bert_padding, name)(
            draw(3, 4).to_sparse(), torch.tensor([0, 1, 2]), *[1, 3][: PADS[name]]
        )


PADS = {"index_first_axis": 0, "index_put_first_axis": 1, "pad_input": 2,
        "unpad_input": 0, "unpad_input_for_concatenated_sequences": 0}  # fmt: skip


def test_integers_of_the_other_functions() -> None:
    """The same for padding and for the backward's scratch."""
    tokens = draw(3, 4)
    want = bert_padding.pad_input(tokens, torch.tensor([0, 1, 5]), 2, 4)
    makers: list[Any] = [np.int64, torch.tensor]
    for make in makers:
        got = bert_padding.pad_input(tokens, torch.tensor([0, 1, 5]), make(2), make(4))
        assert torch.equal(got, want)
        with orchard_ops.backward_scratch(make(7)):
            assert torch.ops.orchard_ops.backward_scratch() == 7
    wrongs: list[Any] = [4.0, None, "4", True]
    for wrong in wrongs:
        with pytest.raises(InvalidProblemError, match="seqlen to be an int"):
            bert_padding.pad_input(tokens, torch.tensor([0, 1, 5]), 2, wrong)


# What is no number, integer, window or flag: argument names, values.
WRONG: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "numbers": (
        ("dropout_p", "softmax_scale", "scale", "softcap"),
        ("0.5", (0.5,), torch.zeros(2), 1j),
    ),
    "numbers that are not optional": (("dropout_p", "softcap"), (None,)),
    "windows": (
        ("window", "window_size"),
        ((None, None), "ab", "a", 3, (1, 2, 3), (1.5, 0), (True, 0), ("1", "2"),
         torch.tensor([1.0, 2.0]), torch.tensor(3), torch.tensor([True, False]),
         np.array([1.5, 0])),
    ),
    "a window that is not optional": (("window_size",), (None,)),
    "integers": (
        ("max_seqlen_q", "max_seqlen_k", "num_splits"),
        (5.0, None, "5", True, torch.tensor(5.0), torch.tensor(True), [5], (5, 5)),
    ),
    "flags": (("is_causal", "causal", "enable_gqa"), (None, "yes", 2, 0.5, [True])),
}  # fmt: skip
PARAMETERS = {
    "flash_attention": ("dropout_p", "scale", "softcap", "window", "is_causal",
                        "enable_gqa"),
    "flash_attn_fwd": ("dropout_p", "scale", "causal"),
    "flash_attention_varlen": ("dropout_p", "scale", "softcap", "window", "is_causal",
                               "max_seqlen_q", "max_seqlen_k"),
    "flash_attention_with_kvcache": ("scale", "softcap", "window", "is_causal",
                                     "num_splits"),
    "flash_attn_func": ("dropout_p", "softmax_scale", "softcap", "window_size",
                        "causal"),
    "flash_attn_qkvpacked_func": ("softcap", "window_size"),
    "flash_attn_kvpacked_func": ("softcap", "window_size"),
    "flash_attn_varlen_func": ("dropout_p", "softmax_scale", "softcap", "window_size",
                               "causal", "max_seqlen_q", "max_seqlen_k"),
    "flash_attn_with_kvcache": ("softmax_scale", "softcap", "window_size", "causal",
                                "num_splits"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_no_number_is_named(name: str, kind: str, place: torch.device) -> None:
    """Each wrong value gives a typed error with the argument, and what came."""
    labels, values = WRONG[kind]
    for label in set(labels) & set(PARAMETERS[name]):
        for value in values:
            with pytest.raises(
                InvalidProblemError, match=r"expected .* got "
            ) as caught:
                call(name, place, **{label: value})
            said = {"softmax_scale": "scale", "causal": "is_causal"}.get(label, label)
            assert said in str(caught.value)


def test_flags_of_other_types(place: torch.device) -> None:
    """NumPy's bools, tensors of one and 0 and 1 are flags."""
    want = call("flash_attention", place, is_causal=True)
    for flag in (1, np.bool_(True), torch.tensor(True)):
        got = call("flash_attention", place, is_causal=flag)
        assert torch.equal(got.cpu(), want.cpu())


def nested(tensor: Tensor) -> Tensor:
    """Return a nested tensor of a tensor's parts."""
    return torch.nested.nested_tensor(list(tensor.float()))


def jagged(tensor: Tensor) -> Tensor:
    """Return a nested tensor of the layout that PyTorch goes on with."""
    return torch.nested.nested_tensor(list(tensor.float()), layout=torch.jagged)


def sparse(tensor: Tensor) -> Tensor:
    """Return a sparse tensor."""
    return tensor.to_sparse()


MORE: dict[str, dict[str, Tensor]] = {
    "flash_attention": {
        "attn_mask": torch.ones(8, 8), "alibi_slopes": torch.ones(2),
        "sinks": torch.ones(2),
    },
    "flash_attention_varlen": {"sinks": torch.ones(2)},
    "flash_attention_with_kvcache": {
        "cache_seqlens": ends(9, 9), "cache_batch_idx": ends(0, 1),
        "cache_leftpad": ends(0, 0), "alibi_slopes": torch.ones(2),
        "k": draw(2, 1, 2, 64), "v": draw(2, 1, 2, 64),
        "rotary_cos": torch.ones(16, 4), "rotary_sin": torch.ones(16, 4),
    },
    "flash_attn_varlen_func": {
        "k": draw(2, 8, 2, 64), "v": draw(2, 8, 2, 64),
        "block_table": ends(0, 1).view(2, 1),
    },
    "flash_attn_with_kvcache": {"block_table": ends(0, 1).view(2, 1)},
}  # fmt: skip


OTHER_LAYOUTS = [nested, sparse]
if TORCH >= (2, 3):
    OTHER_LAYOUTS.append(jagged)


@pytest.mark.parametrize("make", OTHER_LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_nested_and_sparse_tensors_are_refused(
    name: str, make: Callable[[Tensor], Tensor]
) -> None:
    """Wherever a tensor is taken, the error names it and says what to do."""
    given = {**CALLS[name][1], **MORE.get(name, {})}
    if "block_table" in given and "cache_seqlens" in given:
        given["cache_seqlens"] = None
    call(name, torch.device("cpu"), **given)
    assert any(isinstance(value, Tensor) for value in given.values())
    for label, value in given.items():
        if not isinstance(value, Tensor):
            continue
        if make is not sparse and value.dim() == 1:
            continue  # a nested tensor of numbers cannot be made
        with pytest.raises(UnsupportedError, match="dense tensor, got") as caught:
            call(name, torch.device("cpu"), **{**given, label: make(value)})
        assert f" {label} to be" in str(caught.value)


@pytest.mark.parametrize("make", [nested, sparse])
def test_sdpa_leaves_other_layouts_to_pytorch(
    make: Callable[[Tensor], Tensor], device: torch.device
) -> None:
    """explain() says why, and raises nothing of its own."""
    q = draw(1, 2, 8, 64)
    for given in ((make(q), q, q), (q, q, make(q)), (q, q, q, make(torch.ones(8, 8)))):
        assert not orchard_ops.sdpa.explain(*given).is_routed
    there: Any = [tensor.to(device) for tensor in (q, q, q)]
    mask = make(torch.ones(8, 8))
    decision = orchard_ops.sdpa.explain(*there, mask)
    assert not decision.is_routed
    assert "attn_mask" in decision.reason


PAGED = dict(MORE["flash_attn_varlen_func"])
BAD_PAGES: dict[str, tuple[dict[str, Any], str]] = {
    "no table": ({"block_table": [[0], [1]]}, "block_table to be a torch.Tensor"),
    "one dimension": ({"block_table": ends(0, 1)}, r"block_table .*\[2, pages\]"),
    "not whole": ({"block_table": torch.ones(2, 1)}, "block_table .*float32"),
    "a page that is not there": (
        {"block_table": ends(0, 2).view(2, 1)}, "pages from 0 to 1.*got 2"),
    "a negative page": (
        {"block_table": ends(-1, 1).view(2, 1)}, "pages from 0 to 1.*got -1"),
    "falling ends": ({"cu_seqlens_k": ends(0, 9, 8)}, "cu_seqlens_k to rise"),
    "ends not from 0": ({"cu_seqlens_k": ends(1, 3, 8)}, "cu_seqlens_k to rise"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PAGES)
def test_a_table_of_pages_is_checked(name: str, place: torch.device) -> None:
    """What gathers keys from pages names what is wrong before it does."""
    changes, words = BAD_PAGES[name]
    with pytest.raises(OrchardError, match=words):
        call("flash_attn_varlen_func", place, **{**PAGED, **changes})


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1])
def test_the_ends_of_64_bits_are_counts(number: int) -> None:
    """One more on either side is none."""
    assert count_of("f", "x", number, "") == number
    with pytest.raises(InvalidProblemError, match="64 bits"):
        count_of("f", "x", number + (1 if number > 0 else -1), "")
