"""Run by test_mps_key.py with the stand-in's mps device: what only it can show."""

from __future__ import annotations

import gc
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import orchard_ops
from orchard_ops._doctor import checkup
from orchard_ops._errors import translate
from orchard_ops.cli import app

standin = torch.ops.standin
Capture = pytest.CaptureFixture[str]
MODE = os.environ["STANDIN_STORAGE_MODE"]


@pytest.fixture(autouse=True)
def _nothing_is_misused(device: torch.device) -> Iterator[None]:
    """After each test: no over-release, dead object, lost object, stray call."""
    assert device.type == "mps"
    yield
    assert standin.misuses() == [0, 0, 0, 0]


def inputs(device: torch.device, length: int = 40) -> list[torch.Tensor]:
    """Return q, k and v that want gradients."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, 2, length, 16, generator=generator).to(device).requires_grad_()
        for _ in range(3)
    ]


def test_tensors_are_metal_buffers(device: torch.device) -> None:
    """`describe` reports what the MTLBuffer itself says, and the view's offset."""
    found = orchard_ops.storage.describe(inputs(device)[0][:, 1:])
    assert found.device_name == "Simulated Apple GPU"
    assert found.storage_mode == MODE
    assert found.byte_offset == 40 * 16 * 4


def test_refuses_what_mps_refuses(device: torch.device) -> None:
    """No tensor of float64, no conversion to it, no operator that MPS lacks."""
    there = torch.zeros(2).to(device)
    for attempt in (
        lambda: torch.zeros(2, dtype=torch.float64).to(device),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
        lambda: there.double(),
        lambda: there.to("cpu", torch.float64),
    ):
        with pytest.raises(TypeError, match="float64"):
            attempt()
    with pytest.raises(NotImplementedError, match="aten::geqrf"):
        torch.geqrf(there.expand(2, 2))


def dispatches() -> int:
    """Return how many dispatches were encoded; the encoder must still be open."""
    messages = standin.take_encoded()
    assert "endEncoding" not in messages
    return sum(message.startswith("dispatch") for message in messages)


def test_calls_go_into_the_open_encoder(device: torch.device) -> None:
    """A forward is one dispatch, a backward a few; neither ends the encoder."""
    q, k, v = inputs(device)
    orchard_ops.flash_attention(q, k, v)  # The lane layout is probed.
    standin.take_encoded()
    out = orchard_ops.flash_attention(q, k, v)
    assert dispatches() == 1
    out.backward(torch.ones_like(out))
    assert dispatches() >= 3


def test_long_launches_are_committed_apart(device: torch.device) -> None:
    """A backward cut to pieces takes a command buffer each, and gives the same bits.

    It recomputes: one that keeps the gradients of the scores would not, where even a
    walk over them had to be cut.
    """
    operators = torch.ops.orchard_ops
    found = []
    for seconds in (operators.longest_launch(), 1e-12):
        q, k, v = inputs(device, 72)
        before = operators.longest_launch()
        operators.set_longest_launch(seconds)
        grad = torch.ones_like(q)
        out = orchard_ops.flash_attention(q, k, v)
        standin.take_encoded()
        with orchard_ops.backward_scratch(0):
            grads = torch.autograd.grad(out, (q, k, v), grad)
        operators.set_longest_launch(before)
        messages = standin.take_encoded()
        commits = messages.count("commit")
        assert commits == 0 if seconds == before else commits > 8
        found.append([x.cpu() for x in (out.detach(), *grads)])
    assert all(torch.equal(*pair) for pair in zip(*found))


def test_a_gpu_error_is_reported_by_synchronize(device: torch.device) -> None:
    """A command buffer that ends in error becomes a DeviceError, once."""
    q, k, v = inputs(device)
    expected = orchard_ops.flash_attention(q, k, v).detach().cpu()
    orchard_ops.flash_attention(q, k, v)
    standin.fail_gpu(True)
    with pytest.raises(RuntimeError) as caught:
        torch.ops.orchard_ops.synchronize()
    standin.fail_gpu(False)
    error = translate(caught.value)
    assert isinstance(error, orchard_ops.DeviceError)
    assert "GPU Timeout" in str(error)
    assert torch.equal(orchard_ops.flash_attention(q, k, v).detach().cpu(), expected)


def test_a_gpu_error_is_reported_by_the_next_call(device: torch.device) -> None:
    """Without a synchronize the next call of ours says that results are void."""
    q, k, v = inputs(device)
    orchard_ops.flash_attention(q, k, v)
    standin.fail_gpu(True)
    torch.mps.synchronize()
    standin.fail_gpu(False)
    with pytest.raises(orchard_ops.DeviceError, match="failed on the GPU"):
        orchard_ops.flash_attention(q, k, v)


def test_a_stranger_is_no_buffer(device: torch.device) -> None:
    """A storage that holds no MTLBuffer is refused before it is asked anything."""
    q, k, v = inputs(device)
    stranger = torch.ops.standin.wrap_host_memory(q.detach())
    with pytest.raises(orchard_ops.DeviceError, match=r"tensor\.to\('mps'\)"):
        orchard_ops.flash_attention(stranger, k, v)


def test_buffers_and_command_buffers_are_given_back(device: torch.device) -> None:
    """Rounds of forward and backward leave no Metal object behind."""

    def round_trip() -> None:
        q, k, v = inputs(device)
        out = orchard_ops.flash_attention(q, k, v, is_causal=True)
        out.backward(torch.ones_like(out))
        torch.ops.orchard_ops.synchronize()

    kinds = ("MTLBuffer", "MTLCommandBuffer", "MTLComputeCommandEncoder", "NSString")
    round_trip()
    gc.collect()
    before = [standin.live(kind) for kind in kinds]
    for _ in range(3):
        round_trip()
    gc.collect()
    assert [standin.live(kind) for kind in kinds] == before


def causal_gradients(
    device: torch.device, dtype: torch.dtype, dim: int
) -> list[torch.Tensor]:
    """Return out and the gradients of a causal attention, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    q, k, v, grad = (
        torch.randn(1, 2, 72, dim, generator=generator).to(device, dtype)
        for _ in range(4)
    )
    leaves: Any = [x.requires_grad_() for x in (q, k, v)]
    out = orchard_ops.flash_attention(*leaves, is_causal=True)
    return [x.detach().cpu() for x in (out, *torch.autograd.grad(out, leaves, grad))]


def check_gradients(
    device: torch.device, dtype: torch.dtype, dim: int, scratch: int
) -> None:
    """Compare with PyTorch's own on the CPU, in float32."""
    with orchard_ops.backward_scratch(scratch):
        found = causal_gradients(device, dtype, dim)
    generator = torch.Generator().manual_seed(1)
    q, k, v, grad = (
        torch.randn(1, 2, 72, dim, generator=generator).to(dtype).float()
        for _ in range(4)
    )
    leaves: Any = [x.requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    expected = [out, *torch.autograd.grad(out, leaves, grad)]
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    for actual, right in zip(found, expected):
        error = (actual.float() - right).abs().max() / right.abs().max()
        assert error < tolerance


@contextmanager
def says_so(capfd: Capture) -> Iterator[None]:
    """Fail unless a warning says of each kernel once that its tile is smaller.

    PyTorch hands it to Python from a backward's thread, else it goes to stderr.
    """
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    text = "\n".join([capfd.readouterr().err, *(str(w.message) for w in caught)])
    said = re.findall(r"orchard_ops runs (\S+),.* available temporary registers", text)
    assert said
    assert len(said) == len(set(said))


# Whose tables have tiles of many fragments, and tiles in several slices.
SHAPES = [(torch.float16, 64), (torch.float32, 128)]
# What a kernel must do with: fragments of scores at most, slices at least.
LIMITS = [
    {"forward": (1, 1), "backward_dkdv": (1, 1), "backward_dq": (1, 1)},
    {"backward_dkdv": (1, 4)},
    {"backward_dq_spilled": (1, 4), "backward_dq": (1, 4), "forward": (1, 4)},
]


@pytest.mark.parametrize("scratch", [0, 1 << 24])
@pytest.mark.parametrize("limits", LIMITS, ids=["fragments", "writer", "readers"])
@pytest.mark.parametrize(("dtype", "dim"), SHAPES)
def test_kernels_without_registers_take_smaller_tiles(
    device: torch.device,
    capfd: Capture,
    limits: dict[str, tuple[int, int]],
    dtype: torch.dtype,
    dim: int,
    scratch: int,
) -> None:
    """Pipelines that fail are replaced, and kernels agree on what they share."""
    # Each its own text, so that no earlier test has compiled it.
    dim -= 2 * LIMITS.index(limits) + (scratch > 0)
    for kernel, limit in limits.items():
        standin.limit_tiles(kernel, *limit)
    try:
        with says_so(capfd):
            check_gradients(device, dtype, dim, scratch)
        compiled = standin.compilations()
        check_gradients(device, dtype, dim, scratch)
        assert standin.compilations() == compiled
    finally:
        standin.limit_tiles("", 0, 0)


def decode(device: torch.device, dim: int) -> None:
    """Compare a decoding step over pages with plain attention."""
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(2, 3, 4, dim, generator=generator).half()
    pages = torch.randn(8, 16, 2, dim, generator=generator).half()
    table = torch.tensor([[3, 0, 5, 1], [7, 2, 6, 4]], dtype=torch.int32)
    lengths = torch.tensor([64, 37], dtype=torch.int32)
    out = orchard_ops.flash_attention_with_kvcache(
        q.to(device), pages.to(device), pages.to(device), num_splits=3,
        cache_seqlens=lengths.to(device), block_table=table.to(device), is_causal=True,
    )  # fmt: skip
    for i in range(2):
        keys = pages.float()[table[i].long()].flatten(0, 1)[: lengths[i]]
        keys = keys.repeat_interleave(2, 1).transpose(0, 1)
        seen = torch.ones(3, int(lengths[i]), dtype=torch.bool).tril(
            int(lengths[i]) - 3
        )
        right = torch.nn.functional.scaled_dot_product_attention(
            q[i].float().transpose(0, 1), keys, keys, attn_mask=seen
        )
        error = (out[i].cpu().float() - right.transpose(0, 1)).abs().max()
        assert error < 2e-3


@pytest.mark.parametrize(("dim", "slices"), [(64, 1), (64, 4), (192, 4)])
def test_decode_without_registers_takes_a_smaller_tile(
    device: torch.device, capfd: Capture, dim: int, slices: int
) -> None:
    """Parts and pages are walked with one fragment a simdgroup, and in slices."""
    dim -= slices
    standin.limit_tiles("decode", 1, slices)
    try:
        with says_so(capfd):
            decode(device, dim)
        compiled = standin.compilations()
        decode(device, dim)
        assert standin.compilations() == compiled
    finally:
        standin.limit_tiles("", 0, 0)


def test_no_tile_that_runs_is_a_compile_error(device: torch.device) -> None:
    """Only when no tile gives a pipeline the call fails, in Metal's own words."""
    q, k, v = (x.detach()[..., :11] for x in inputs(device))
    standin.limit_tiles("forward", 1, 8)
    with pytest.raises(orchard_ops.KernelCompileError) as caught:
        orchard_ops.flash_attention(q, k, v)
    standin.limit_tiles("", 0, 0)
    assert "exceeds available temporary registers" in str(caught.value)
    assert "smaller tiles" in str(caught.value)
    orchard_ops.flash_attention(q, k, v)


def test_doctor_reports_threads_and_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each class of kernel is there: Metal repeats the attribute, registers speak.

    The report holds times of ours beside PyTorch's own attention.
    """
    # A GPU's shapes would take hours, and its dtype is none of the CPU's in 2.1.
    first = "from orchard_ops._perf import timing\n"
    first += "for name in ('SHAPES', 'DTYPES'):\n"
    first += "    rows = getattr(timing, name)\n    rows['mps'] = rows['metalsim']\n"
    # PyTorch's own attention asks for a choice that no kernel of the stand-in makes.
    first += "timing._sdpa = lambda q, k, v: (q @ k.mT).softmax(-1) @ v\n"
    monkeypatch.setattr(checkup, "CHILD", first + checkup.CHILD)
    path = tmp_path / "report.json"
    result = CliRunner().invoke(app, ["doctor", "--json", "--report", str(path)])
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert [row["pass"] for row in found["benchmark"]] == [
        "forward",
        "forward and backward",
    ]
    assert all(min(row["ours_ms"], row["sdpa_ms"]) > 0 for row in found["benchmark"])
    limits = found["threads_per_threadgroup"]
    kernels = {name.partition("_half")[0] for name in limits}
    assert kernels >= {"forward", "backward_dkdv", "backward_dq", "decode", "combine"}
    assert any(name.endswith("_spilling") for name in limits)
    for row in limits.values():
        assert row["with_attribute"] in (64, 128, 192, 256)
        assert row["without"] == 384
