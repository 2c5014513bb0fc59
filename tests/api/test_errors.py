"""Bad input raises a typed error that shows it, and launches nothing."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
import torch
from harness import count_calls
from torch import Tensor

import orchard_ops
from orchard_ops import InvalidProblemError, UnsupportedError, _errors

Inputs = dict[str, Any]


def make(**changes: Any) -> Callable[[torch.device], Inputs]:
    """Return a maker of valid arguments with some replaced; shapes become tensors.

    Whatever is a tensor moves to the device.
    """

    def build(device: torch.device) -> Inputs:
        inputs: Inputs = dict.fromkeys("qkv", (2, 4, 6, 16))
        inputs.update(changes)
        for name in "qkv":
            if isinstance(inputs[name], tuple):
                inputs[name] = torch.zeros(inputs[name])
        return {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }

    return build


def on_cpu(name: str) -> Callable[[torch.device], Inputs]:
    """Return a maker of arguments of which one lies on the CPU."""

    def build(device: torch.device) -> Inputs:
        inputs: Any = make(
            attn_mask=torch.ones(6, 6), sinks=torch.ones(4), alibi_slopes=torch.ones(4)
        )(device)
        inputs[name] = inputs[name].cpu()
        return inputs

    return build


HALF = torch.zeros(2, 4, 6, 16, dtype=torch.float16)
# name: maker, error, texts that the message must contain
BAD: dict[str, tuple[Callable[[torch.device], Inputs], type[Exception], list[str]]] = {
    "not a tensor": (make(k=[1.0]), InvalidProblemError, ["k", "list"]),
    "rank 1": (make(q=(16,)), InvalidProblemError, ["[16]", "head_dim"]),
    "rank 5": (
        make(v=(3, 2, 4, 6, 16), k=(4, 2, 4, 6, 16)),
        InvalidProblemError,
        ["[3, 2, 4, 6, 16]", "broadcast"],
    ),
    "other leading dimensions": (
        make(q=(3, 6, 16)),
        InvalidProblemError,
        ["heads", "3", "4"],
    ),
    "dtypes differ": (make(k=HALF), InvalidProblemError, ["float16", "float32"]),
    "integers": (
        make(**{name: HALF.to(torch.int32) for name in "qkv"}),
        InvalidProblemError,
        ["nt"],
    ),
    "k on the CPU": (on_cpu("k"), InvalidProblemError, ["cpu"]),
    "q on the CPU": (on_cpu("q"), InvalidProblemError, ["cpu"]),
    "batches differ": (make(k=(3, 4, 6, 16)), InvalidProblemError, ["2", "3"]),
    "key heads differ": (make(v=(2, 2, 6, 16)), InvalidProblemError, ["4", "2"]),
    "key lengths differ": (make(v=(2, 4, 7, 16)), InvalidProblemError, ["6", "7"]),
    "head sizes differ": (make(q=(2, 4, 6, 24)), InvalidProblemError, ["24", "16"]),
    "heads do not divide": (
        make(k=(2, 3, 6, 16), v=(2, 3, 6, 16)),
        InvalidProblemError,
        ["4", "3"],
    ),
    "grouped heads not allowed": (
        make(k=(2, 2, 6, 16), v=(2, 2, 6, 16), enable_gqa=False),
        InvalidProblemError,
        ["4", "2", "enable_gqa"],
    ),
    "head_dim 0": (
        make(q=(2, 4, 6, 0), k=(2, 4, 6, 0)),
        InvalidProblemError,
        ["head_dim", "0", "576"],
    ),
    "head_dim 577": (
        make(q=(2, 4, 6, 577), k=(2, 4, 6, 577)),
        InvalidProblemError,
        ["head_dim", "577", "576"],
    ),
    "head_dim_v 600": (make(v=(2, 4, 6, 600)), InvalidProblemError, ["600", "576"]),
    "scale NaN": (make(scale=float("nan")), InvalidProblemError, ["scale", "nan"]),
    "scale infinite": (make(scale=float("inf")), InvalidProblemError, ["scale", "inf"]),
    "dropout 1": (make(dropout_p=1.0), InvalidProblemError, ["dropout_p", "1.0"]),
    "dropout negative": (make(dropout_p=-0.5), InvalidProblemError, ["-0.5"]),
    "alignment unknown": (
        make(is_causal=True, causal_alignment="middle"),
        InvalidProblemError,
        ["middle", "bottom-right"],
    ),
    "dropout NaN": (make(dropout_p=float("nan")), InvalidProblemError, ["nan"]),
    "mask not a tensor": (make(attn_mask=[1]), InvalidProblemError, ["list"]),
    "mask of integers": (
        make(attn_mask=torch.ones(6, 6, dtype=torch.int64)),
        InvalidProblemError,
        ["attn_mask", "int64", "floating-point", "bool"],
    ),
    "mask of another batch, rank 5": (
        make(
            **dict.fromkeys("qkv", (2, 3, 4, 6, 16)),
            attn_mask=torch.ones(3, 3, 1, 6, 6),
        ),
        InvalidProblemError,
        ["[3, 3, 1, 6, 6]", "broadcast"],
    ),
    "slopes that are learned": (
        make(alibi_slopes=torch.ones(4, requires_grad=True)),
        InvalidProblemError,
        ["alibi_slopes", "attn_mask"],
    ),
    "mask of rank 5": (
        make(attn_mask=torch.ones(1, 2, 4, 6, 6)),
        InvalidProblemError,
        ["attn_mask", "[1, 2, 4, 6, 6]"],
    ),
    "mask of rank 4, q of rank 3": (
        make(**dict.fromkeys("qkv", (2, 6, 16)), attn_mask=torch.ones(2, 1, 6, 6)),
        InvalidProblemError,
        ["attn_mask", "[2, 1, 6, 6]"],
    ),
    "mask of another batch": (
        make(attn_mask=torch.ones(3, 1, 1, 6)),
        InvalidProblemError,
        ["attn_mask", "3, 1, 1, 6", "2, 4, 6, 6"],
    ),
    "mask of other heads": (
        make(attn_mask=torch.ones(3, 6, 6)),
        InvalidProblemError,
        ["attn_mask", "1, 3, 6, 6", "2, 4, 6, 6"],
    ),
    "mask of other queries": (
        make(attn_mask=torch.ones(5, 6)),
        InvalidProblemError,
        ["attn_mask", "1, 1, 5, 6", "2, 4, 6, 6"],
    ),
    "mask without keys": (
        make(attn_mask=torch.ones(6, 0)),
        InvalidProblemError,
        ["attn_mask", "1, 1, 6, 0", "2, 4, 6, 6"],
    ),
    "mask too short": (
        make(attn_mask=torch.ones(6, 5)),
        InvalidProblemError,
        ["attn_mask", "1, 1, 6, 5", "2, 4, 6, 6"],
    ),
    "mask of key heads": (
        make(k=(2, 2, 6, 16), v=(2, 2, 6, 16), attn_mask=torch.ones(2, 2, 6, 6)),
        InvalidProblemError,
        ["attn_mask", "2, 2, 6, 6", "2, 4, 6, 6"],
    ),
    "mask on the CPU": (on_cpu("attn_mask"), InvalidProblemError, ["mask", "cpu"]),
    "window of one": (make(window=4), InvalidProblemError, ["window", "4"]),
    "window of three": (make(window=(1, 2, 3)), InvalidProblemError, ["(1, 2, 3)"]),
    "window negative": (make(window=(-2, 0)), InvalidProblemError, ["(-2, 0)"]),
    "window of floats": (make(window=(1.5, 0)), InvalidProblemError, ["(1.5, 0)"]),
    "softcap negative": (make(softcap=-1.0), InvalidProblemError, ["softcap", "-1.0"]),
    "softcap infinite": (
        make(softcap=float("inf")),
        InvalidProblemError,
        ["softcap", "inf"],
    ),
    "slopes of integers": (
        make(alibi_slopes=torch.ones(4, dtype=torch.int32)),
        InvalidProblemError,
        ["alibi_slopes", "int32"],
    ),
    "slopes for other heads": (
        make(alibi_slopes=torch.ones(3)),
        InvalidProblemError,
        ["alibi_slopes", "[4]", "[3]"],
    ),
    "slopes for other batches": (
        make(alibi_slopes=torch.ones(3, 4)),
        InvalidProblemError,
        ["alibi_slopes", "[2, 4]", "[3, 4]"],
    ),
    "slopes on the CPU": (
        on_cpu("alibi_slopes"),
        InvalidProblemError,
        ["alibi_slopes", "cpu"],
    ),
    "a scale that is learned": (
        make(scale=torch.tensor(0.5, requires_grad=True)),
        InvalidProblemError,
        ["scale", "multiply q"],
    ),
    "a cap that is learned": (
        make(softcap=torch.tensor(5.0, requires_grad=True)),
        InvalidProblemError,
        ["softcap", "gradient"],
    ),
    "scale is text": (make(scale="x"), InvalidProblemError, ["scale", "'x'"]),
    "softcap is None": (make(softcap=None), InvalidProblemError, ["softcap", "None"]),
    "dropout is None": (make(dropout_p=None), InvalidProblemError, ["dropout_p"]),
    "half a window": (make(window=(None, 0)), InvalidProblemError, ["(None, 0)"]),
    "window of a fraction": (
        make(window=(np.float32(1.5), 0)),
        InvalidProblemError,
        ["1.5"],
    ),
    "sinks not a tensor": (make(sinks=1.0), InvalidProblemError, ["sinks", "float"]),
    "sinks for other heads": (
        make(sinks=torch.ones(1)),
        InvalidProblemError,
        ["sinks", "[4]", "[1]"],
    ),
    "sinks on the CPU": (on_cpu("sinks"), InvalidProblemError, ["sinks", "cpu"]),
}
MIXED_DEVICES = {name for name in BAD if name.endswith("on the CPU")}


def check(name: str, device: torch.device) -> None:
    """Assert the error, its words, and what supports() says of the same input."""
    build, error, words = BAD[name]
    inputs: Any = build(device)
    with pytest.raises(error) as caught:
        orchard_ops.flash_attention(**inputs)
    assert isinstance(caught.value, orchard_ops.OrchardError)
    for word in ("[flash_attention]", *words):
        assert word in str(caught.value)
    is_supported, reason = orchard_ops.supports(**inputs)
    assert not is_supported
    assert reason


@pytest.mark.parametrize("name", BAD)
def test_on_the_device(name: str, device: torch.device) -> None:
    """Each bad problem is refused with its values, before anything is launched."""
    with count_calls() as calls:
        check(name, device)
    assert (calls.fwd, calls.bwd, calls.copies) == (0, 0, 0)


@pytest.mark.parametrize("name", [name for name in BAD if name not in MIXED_DEVICES])
def test_on_the_cpu(name: str) -> None:
    """CPU tensors are held to the same rules."""
    check(name, torch.device("cpu"))


def test_float64_is_refused_on_the_device(device: torch.device) -> None:
    """float64 has no kernels, and the message says which dtypes have."""
    if device.type == "mps":  # which cannot even hold it: PyTorch says so
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(1, dtype=torch.float64).to(device)
        return
    q = torch.zeros(1, 1, 4, 8, dtype=torch.float64).to(device)
    with pytest.raises(InvalidProblemError, match="float32, float16 or bfloat16"):
        orchard_ops.flash_attention(q, q, q)


@pytest.mark.parametrize(
    "shape", [(1, 1, 5, 16), (1, 1, 6, 8), (6, 16)], ids=["length", "size", "rank"]
)
def test_gradient_of_the_wrong_shape(
    shape: tuple[int, ...], device: torch.device
) -> None:
    """The backward operator refuses a gradient that does not fit the output."""
    q = torch.randn(1, 1, 6, 16).to(device)
    grad = torch.ones(shape).to(device)
    out, lse, stats = torch.ops.orchard_ops.forward(q, q, q, return_lse=True)
    wanted = [True, True, True, False, False]
    with count_calls() as calls, pytest.raises(RuntimeError) as caught:
        torch.ops.orchard_ops.backward(grad, None, out, lse, stats, wanted, q, q, q)
    error = _errors.translate(caught.value)
    assert isinstance(error, InvalidProblemError)
    assert "[1, 1, 6, 16]" in str(error)
    assert calls.bwd == 0


def test_the_device_works_after_an_error(device: torch.device) -> None:
    """A refused problem leaves nothing behind."""
    bad = torch.zeros(1, 1, 4, 577).to(device)
    with pytest.raises(InvalidProblemError):
        orchard_ops.flash_attention(bad, bad, bad)
    q = torch.ones(1, 1, 4, 16).to(device)
    assert torch.equal(orchard_ops.flash_attention(q, q, q).cpu(), q.cpu())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[InvalidProblemError] [f] bad 3", InvalidProblemError("[f] bad 3")),
        ("[UnsupportedError] [f] not yet", UnsupportedError("[f] not yet")),
        ("[DeviceError] lost", orchard_ops.DeviceError("lost")),
        ("[KernelCompileError] line 1", orchard_ops.KernelCompileError("line 1")),
        ("[WrongKernelError] [a] b", orchard_ops.WrongKernelError("[a] b")),
        ("[DeviceError] a\nException raised from f", orchard_ops.DeviceError("a")),
    ],
)
def test_translate(text: str, expected: Exception) -> None:
    """A tagged error of the operators becomes the class that its tag names."""
    actual = _errors.translate(RuntimeError(text))
    assert type(actual) is type(expected)
    assert str(actual) == str(expected)


def test_translate_leaves_other_errors_alone() -> None:
    """An error without a tag is PyTorch's own and stays what it is."""
    error = RuntimeError("[enforce fail] x")
    assert _errors.translate(error) is error


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (InvalidProblemError, ValueError),
        (UnsupportedError, NotImplementedError),
        (orchard_ops.DeviceError, RuntimeError),
    ],
)
def test_tree(cls: type[Exception], builtin: type[Exception]) -> None:
    """Each class can be caught as OrchardError and as the builtin it resembles."""
    assert issubclass(cls, orchard_ops.OrchardError)
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("where", ["device", "cpu"])
def test_numbers_of_other_types(where: str, device: torch.device) -> None:
    """NumPy's numbers and tensors of one number are numbers; far windows are open."""
    place = device if where == "device" else torch.device("cpu")
    inputs: Any = {n: torch.randn(2, 4, 6, 16, device="cpu").to(place) for n in "qkv"}
    want = orchard_ops.flash_attention(**inputs, scale=0.5, window=(2, 1))
    scales: list[Any] = [np.float64(0.5), torch.tensor(0.5)]
    for scale in scales:
        window: Any = (np.int64(2), np.int32(1))
        got = orchard_ops.flash_attention(**inputs, scale=scale, window=window)
        assert torch.equal(got.cpu(), want.cpu())
    got = orchard_ops.flash_attention(**inputs, window=(2**63, 2**64))
    assert torch.equal(got.cpu(), orchard_ops.flash_attention(**inputs).cpu())


@pytest.mark.parametrize("where", ["device", "cpu"])
def test_learned_slopes_lose_no_gradient(where: str, device: torch.device) -> None:
    """They are refused where one would be lost, and taken where none is recorded."""
    place = device if where == "device" else torch.device("cpu")
    q = torch.randn(2, 4, 6, 16).to(place)
    slopes = torch.rand(4).to(place).requires_grad_()
    ends = torch.tensor([0, 6], dtype=torch.int32).to(place)
    packed = (q[0].transpose(0, 1),) * 3
    swapped = q.transpose(1, 2)
    calls: list[Callable[[], Any]] = [
        lambda: orchard_ops.flash_attention(q, q, q, alibi_slopes=slopes),
        lambda: orchard_ops.flash_attention_varlen(
            *packed, ends, ends, 6, 6, alibi_slopes=slopes
        ),
        lambda: orchard_ops.flash_attn.flash_attn_func(
            swapped, swapped, swapped, alibi_slopes=slopes
        ),
        lambda: orchard_ops.flash_attention_with_kvcache(
            swapped, swapped, swapped, cache_seqlens=6, alibi_slopes=slopes
        ),
    ]
    for call in calls:
        with pytest.raises(InvalidProblemError, match="would be lost"):
            call()
        with torch.no_grad():
            assert not call().requires_grad


def test_dao_functions_name_what_is_wrong(device: torch.device) -> None:
    """What is no tensor, and a window of another length."""
    q = torch.zeros(2, 6, 4, 16).to(device)
    wrong: Any = [1.0]
    with pytest.raises(InvalidProblemError, match=r"k to be a .*Tensor, got list"):
        orchard_ops.flash_attn.flash_attn_func(q, wrong, q)
    with pytest.raises(InvalidProblemError, match="qkv to be a"):
        orchard_ops.flash_attn.flash_attn_qkvpacked_func(None)
    for wrong in (None, (1, 1, 1)):
        with pytest.raises(InvalidProblemError, match="window_size to be two integers"):
            orchard_ops.flash_attn.flash_attn_func(q, q, q, window_size=wrong)


def test_supports_on_meta() -> None:
    """Tensors without memory can be asked about: the call works."""
    q = torch.empty(2, 4, 6, 16, device="meta")
    assert orchard_ops.supports(q, q, q, is_causal=True) == (True, "")
    assert orchard_ops.flash_attention(q, q, q, is_causal=True).shape == q.shape


PLACES = {
    "kernel f, k.metal:13, threadgroup (1, 2, 3), simdgroup 1, lane 31: race: x": (
        "k.metal",
        13,
        (1, 2, 3),
        31,
    ),
    "kernel f, line 12, threadgroup (0, 0, 0), simdgroup 0, lane 0: a lane returns": (
        None,
        12,
        (0, 0, 0),
        0,
    ),
    "kernel f, threadgroup (0, 0, 0), simdgroup 0, lane 5: too many": (
        None,
        None,
        (0, 0, 0),
        5,
    ),
    "kernel f, a b/k.metal:7: uninitialized memory reached a result": (
        "a b/k.metal",
        7,
        None,
        None,
    ),
    "kernel f: did not end within its timeout": (None, None, None, None),
}


@pytest.mark.parametrize("text", PLACES)
def test_a_fault_tells_its_place(text: str) -> None:
    """What the simulator says of a place becomes attributes, and keeps its text."""
    found = _errors.typed(f"[DeviceError] simulator: {text}")
    assert isinstance(found, orchard_ops.FaultError)
    assert str(found) == f"simulator: {text}"
    assert found.kernel == "f"
    assert text.endswith(": " + found.reason)
    place = (found.file, found.line, found.threadgroup, found.lane)
    assert place == PLACES[text]


@pytest.mark.parametrize(
    "text",
    [
        "kernel f: 2048 threads per threadgroup (2048, 1, 1), allowed 1 to 1024",
        "kernel f: parameter y: nothing is bound at index 1",
        "out of memory allocating 5 bytes",
    ],
)
def test_other_errors_of_a_device_are_no_faults(text: str) -> None:
    """What the caller did, or the machine, is no mistake of a kernel."""
    assert type(_errors.typed(f"[DeviceError] {text}")) is orchard_ops.DeviceError


def test_what_a_compiler_complains_of() -> None:
    """Errors count, notes and warnings do not; the first one's place is the error's."""
    found = orchard_ops.KernelCompileError(
        "simulator: the kernel does not compile\n"
        "k.metal:3:10: error: no z: nowhere\n    3 |   y[0] = z;\n"
        "k.metal:1:1: note: here\ninclude/k.h:2: fatal error: 'x.h' not found\n"
    )
    assert found.diagnostics == (
        ("k.metal", 3, 10, "no z: nowhere"),
        ("include/k.h", 2, None, "'x.h' not found"),
    )
    assert (found.file, found.line) == ("k.metal", 3)
    nothing = orchard_ops.KernelCompileError("no kernel named f")
    assert (nothing.file, nothing.line, nothing.diagnostics) == (None, None, ())


def test_limits_are_allowed_and_the_next_is_not() -> None:
    """The longest sequences, the widest heads, and the last places of a whole."""
    long = torch.empty(1, 1, 2**29, 8, device="meta")
    wide = torch.empty(1, 1, 4, 576, device="meta")
    for x in (long, wide):
        assert orchard_ops.flash_attention(x, x, x).shape == x.shape
    q, longer = long[:, :, :1], torch.empty(1, 1, 2**29 + 1, 8, device="meta")
    for given, name in (((longer, q, q), "len_q"), ((q, longer, longer), "len_kv")):
        with pytest.raises(InvalidProblemError, match=f"expected {name} from 0 to"):
            orchard_ops.flash_attention(*given)
    part = orchard_ops.flash_attention_partial
    q = torch.empty(1, 2, 16, 8, device="meta")
    last = dict(q_offset=2**29 - 16, k_offset=2**29 - 16, head_offset=2**20 - 2,
                heads_total=2**20)  # fmt: skip
    assert part(q, q, q, **last)[0].shape == q.shape
    for name in last:
        step = -1 if name == "heads_total" else 1
        with pytest.raises(InvalidProblemError, match=name):
            part(q, q, q, **{**last, name: last[name] + step})
    none = q[:, :, :0]
    last = dict(q_offset=2**29, k_offset=2**29)
    assert part(none, none, none, **last)[0].shape == none.shape
