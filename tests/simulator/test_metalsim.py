"""PyTorch's device ``metalsim``: what a user of torch may expect of a device."""

from __future__ import annotations

import copy
import io
import subprocess
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import torch
from needs import TORCH, skip_without_metalsim
from programs import END_AFTER_BACKWARD
from torch import Tensor, nn
from torch.nn import functional as F

import orchard_ops
from orchard_ops import sim
from orchard_ops._child import python

skip_without_metalsim("device")
sim.enable()
DEVICE = torch.device("metalsim")
MODES = ("private", "shared")
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


@pytest.fixture(params=MODES, autouse=True)
def storage_mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with tensors of both storage modes."""
    with sim.default_storage_mode(request.param):
        yield request.param


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a CPU tensor with the numbers from a fixed seed."""
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator) * 8
    return values > 0 if dtype == torch.bool else values.to(dtype)


def assert_same(expected: Tensor, actual: Tensor) -> None:
    """Compare bits, dtype and shape of a CPU and a metalsim tensor."""
    assert actual.device == torch.device("metalsim:0")
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


class TestMemory:
    """Storages: handles, modes, lifetime."""

    def test_mode_of_new_tensors_is_the_chosen_one(self, storage_mode: str) -> None:
        """The default storage mode is what was set, and a block undoes itself."""
        other = "shared" if storage_mode == "private" else "private"
        with sim.default_storage_mode(other):
            assert sim.default_storage_mode() == other
        assert sim.default_storage_mode() == storage_mode

    def test_unknown_mode_is_refused(self) -> None:
        """Another mode than private or shared is an error that names both."""
        with pytest.raises(ValueError, match=r"private.*shared.*got 'managed'"):
            sim.default_storage_mode("managed")

    def test_storage_pointer_is_a_handle(self) -> None:
        """A view's data pointer is the handle plus the offset, as on MPS."""
        whole = torch.zeros(16, device=DEVICE)
        view = whole[3:]
        handle = whole.untyped_storage().data_ptr()
        assert view.untyped_storage().data_ptr() == handle
        assert view.data_ptr() == handle + 12

    def test_memory_returns_to_what_it_was(self) -> None:
        """Deleting tensors releases their memory."""
        before = sim.memory().allocated_bytes
        held = [torch.zeros(1000, device=DEVICE) for _ in range(10)]
        total = held[0] + held[1]
        assert sim.memory().allocated_bytes >= before + 11 * 4000
        assert sim.memory().peak_bytes >= before + 11 * 4000
        del held, total
        assert sim.memory().allocated_bytes == before

    def test_no_elements_need_no_buffer(self) -> None:
        """A tensor of no elements has a null handle and still works."""
        before = sim.memory().allocated_bytes
        empty = torch.empty(0, 3, device=DEVICE)
        assert empty.untyped_storage().data_ptr() == 0
        assert sim.memory().allocated_bytes == before
        assert_same(torch.zeros(3), (empty * 2).sum(0))
        assert torch.cat([empty, empty]).shape == (0, 3)

    def test_storage_can_be_resized(self) -> None:
        """Resizing a tensor or its storage keeps the elements that fit."""
        x = torch.arange(4.0, device=DEVICE)
        x.resize_(6)
        assert_same(torch.arange(4.0), x[:4])
        y = torch.arange(4.0, device=DEVICE)
        y.untyped_storage().resize_(32)
        assert y.untyped_storage().nbytes() == 32
        assert_same(torch.arange(4.0), y)

    def test_set_shares_a_storage(self) -> None:
        """set_ makes a tensor a view of another storage."""
        x = torch.arange(6.0, device=DEVICE)
        y = torch.empty(0, device=DEVICE).set_(x.untyped_storage(), 2, (2, 2), (1, 2))
        y.zero_()
        assert_same(torch.tensor([0.0, 1, 0, 0, 0, 0]), x)


FOREIGN = """
import ctypes, torch
from orchard_ops import sim
sim.enable()
sim.default_storage_mode("{mode}")
handle = torch.zeros(4, device="metalsim").untyped_storage().data_ptr()
{then}
"""


def run_python(text: str) -> subprocess.CompletedProcess[str]:
    """Run a text in a Python of its own."""
    return subprocess.run(python(text), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("storage_mode", ["private"], indirect=True)
def test_private_memory_kills_who_touches_it() -> None:
    """Reading the pages of a private tensor from the host ends the process."""
    x = torch.zeros(4, device=DEVICE)
    then = """
def inaccessible():
    for line in open("/proc/self/maps"):
        span, rights = line.split()[:2]
        start, end = (int(text, 16) for text in span.split("-"))
        yield start, end, rights
before = {(s, e) for s, e, r in inaccessible()}
x = torch.zeros(1 << 22, device="metalsim")
new = [(s, e) for s, e, r in inaccessible()
       if r.startswith("---") and e - s >= 1 << 24 and (s, e) not in before]
assert new, "no inaccessible pages of that size"
print("found", flush=True)
ctypes.string_at((new[0][0] + new[0][1]) // 2, 1)
print("survived")
"""
    done = run_python(FOREIGN.format(mode="private", then=then))
    assert "found" in done.stdout, done.stderr
    assert "survived" not in done.stdout
    assert done.returncode < 0
    assert_same(torch.zeros(4), x)


class TestCopies:
    """Between CPU and device and within the device."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_round_trip_keeps_the_bits(self, dtype: torch.dtype) -> None:
        """A tensor of any dtype comes back from the device as it went."""
        x = sample(5, 7, dtype=dtype)
        assert_same(x, x.to(DEVICE))

    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x.t(),
            lambda x: x[1:, 2:5],
            lambda x: x[::2, ::3],
            lambda x: x[2:3].expand(4, 6),
            lambda x: x.unfold(1, 2, 2),
            lambda x: x.flatten()[5:].view(5, 5),
            lambda x: x.as_strided((3, 2), (2, 5), 4),
            lambda x: x.view(torch.int32),
            lambda x: x.diagonal().unsqueeze(0),
        ],
        ids=[
            "t",
            "slice",
            "step",
            "expand",
            "unfold",
            "view",
            "as_strided",
            "dtype",
            "diagonal",
        ],
    )
    def test_views_copy_as_on_the_cpu(self, view: Callable[[Tensor], Tensor]) -> None:
        """A view with offset and strides reads the elements that the CPU's reads."""
        x = sample(5, 6)
        on_device = view(x.to(DEVICE))
        assert on_device.stride() == view(x).stride()
        assert on_device.storage_offset() == view(x).storage_offset()
        assert_same(view(x), on_device)
        assert_same(view(x).contiguous(), on_device.contiguous())

    def test_copy_into_a_view_converts(self) -> None:
        """copy_ into a strided view broadcasts, converts, leaves the rest alone."""
        x, y = sample(6, 8), sample(6, 8).to(DEVICE)
        x[:, 1::2].copy_(torch.arange(4))
        y[:, 1::2].copy_(torch.arange(4))
        assert_same(x, y)
        y[:, ::2].copy_(torch.arange(4, device=DEVICE).half())
        x[:, ::2].copy_(torch.arange(4).half())
        assert_same(x, y)

    def test_lazy_conjugate_is_kept(self) -> None:
        """A conjugated view reads conjugated on both sides."""
        x = sample(3, 4, dtype=torch.complex64) * 1j
        assert_same(x.conj().resolve_conj(), x.to(DEVICE).conj().resolve_conj())
        assert_same(x.conj() @ x.t(), x.to(DEVICE).conj() @ x.to(DEVICE).t())

    def test_pinned_memory_says_so(self) -> None:
        """pin_memory makes a CPU copy that is_pinned knows."""
        x = sample(9)
        args = () if TORCH >= (2, 13) else (DEVICE.type,)
        pinned = x.pin_memory(*args)
        assert pinned.is_pinned(*args)
        assert not x.is_pinned(*args)
        assert_same(x, pinned.to(DEVICE, non_blocking=True))


class TestOperators:
    """Operators of the CPU on the device's memory."""

    @pytest.mark.parametrize(
        "run",
        [
            lambda x: x.add_(1).mul_(x),
            lambda x: x[1:, ::2].fill_(3),
            lambda x: x.t()[2].sub_(x[0, 0]),
            lambda x: x.masked_fill_(x > 0, -1),
            lambda x: x.index_put_((torch.tensor([0, 2]),), torch.tensor(5.0)),
            lambda x: x.unsqueeze_(0).transpose_(0, 2),
            lambda x: torch.sort(x, out=(x, torch.empty_like(x).long())),
            lambda x: x.__setitem__((slice(None), 1), x[:, 2]),
            lambda x: torch._foreach_add_([x, x[1]], 2.0),
        ],
        ids=[
            "chain",
            "slice",
            "t",
            "mask",
            "index",
            "shape",
            "sort",
            "setitem",
            "foreach",
        ],
    )
    def test_in_place_changes_the_tensor(self, run: Callable[[Tensor], object]) -> None:
        """In-place operators on tensors and views leave the CPU's result behind."""
        x, y = sample(4, 6), sample(4, 6).to(DEVICE)
        run(x)
        run(y)
        assert x.shape == y.shape
        assert x.stride() == y.stride()
        assert_same(x, y)

    @pytest.mark.parametrize(
        "run",
        [
            lambda x: torch.cat([x, x[:1]]),
            lambda x: x[x > 0],
            lambda x: x[[0, 2]],
            lambda x: x[torch.tensor([1, 1]).to(x.device), 2:],
            lambda x: torch.stack(x.split(2, dim=1)[:2]),
            lambda x: x.topk(2).indices,
            lambda x: torch.einsum("ij,kj->ik", x, x),
            lambda x: x.softmax(-1).cumsum(0),
            lambda x: x.std(0),
            lambda x: x.argsort(),
            lambda x: torch.where(x > 0, x, 0.0),
            lambda x: x.double().bfloat16(),
            lambda x: torch.arange(5, device=x.device) + x[0, 0],
            lambda x: torch.eye(3, device=x.device),
            lambda x: torch.tensor([[1, 2]], device=x.device),
            lambda x: torch.nonzero(x > 0),
            lambda x: x.tril().unique(),
            lambda x: torch.linalg.svd(x)[1],
        ],
    )
    def test_results_are_the_cpus(self, run: Callable[[Tensor], Tensor]) -> None:
        """An operator's result lies on the device and has the CPU's bits."""
        x = sample(4, 6)
        assert_same(run(x), run(x.to(DEVICE)))

    def test_out_argument_grows(self) -> None:
        """An out= tensor of another size is resized, a sliced one is filled."""
        x = sample(4, 6).to(DEVICE)
        out = torch.empty(0, device=DEVICE)
        assert torch.mul(x, 2, out=out) is out
        assert_same(sample(4, 6) * 2, out)
        half = torch.zeros(4, 12, device=DEVICE)
        torch.mul(x, 2, out=half[:, ::2])
        assert_same(sample(4, 6) * 2, half[:, ::2])
        assert_same(torch.zeros(4, 6), half[:, 1::2])

    def test_result_aliases_what_the_cpu_aliases(self) -> None:
        """A view shares memory with its base, a result does not."""
        x = sample(4, 6).to(DEVICE)
        x.unfold(0, 2, 1)[0].zero_()
        assert x[0].abs().sum().item() == 0
        (x + 0).zero_()
        assert x.abs().sum().item() > 0

    def test_mixed_devices_are_refused(self) -> None:
        """A CPU tensor beside metalsim ones is an error; a CPU number is none."""
        x = sample(4, 6)
        with pytest.raises(RuntimeError, match=r"same device.*metalsim"):
            x.to(DEVICE) + x
        with pytest.raises(RuntimeError, match=r"same device.*metalsim"):
            torch.cat([x.to(DEVICE), x])
        assert_same(x + 2, x.to(DEVICE) + torch.tensor(2.0))

    def test_printing_shows_values_and_device(self) -> None:
        """A tensor prints as on the CPU, with its device."""
        assert repr(torch.ones(2, device=DEVICE)) == (
            "tensor([1., 1.], device='metalsim:0')"
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_means_are_written(self, dtype: torch.dtype) -> None:
        """The mean of half numbers, and all that is made of it, is a number."""
        x = sample(4, 8, dtype=dtype)
        for run in (
            lambda x: x.mean(),
            lambda x: x.mean(-1, keepdim=True),
            lambda x: x.var(-1),
            lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)),
            lambda x: x.square().mean(),
        ):
            assert_same(run(x), run(x.to(DEVICE)))

    def test_a_gradient_without_slope_is_zeros(self) -> None:
        """PyTorch's zeros without memory are numbers like any others here."""
        x = sample(5).to(DEVICE).requires_grad_()
        torch.sgn(x).sum().backward()
        assert_same(torch.zeros(5), x.grad)
        assert_same(
            torch.zeros(3, 2), torch._efficientzerotensor((3, 2), device=DEVICE)
        )


class TestRandom:
    """Random numbers of the device."""

    @pytest.mark.parametrize(
        "draw",
        [
            lambda: torch.randn(9, device=DEVICE),
            lambda: torch.rand(9, device=DEVICE),
            lambda: torch.randint(0, 99, (9,), device=DEVICE),
            lambda: torch.randperm(9, device=DEVICE),
            lambda: F.dropout(torch.ones(64, device=DEVICE), 0.5),
            lambda: torch.ones(9, device=DEVICE).multinomial(3),
        ],
    )
    def test_seed_repeats(self, draw: Callable[[], Tensor]) -> None:
        """manual_seed of torch and of the device make a draw repeat."""
        torch.manual_seed(5)
        first = draw()
        assert not torch.equal(first, draw())
        torch.manual_seed(5)
        assert torch.equal(first, draw())
        torch.metalsim.manual_seed(5)  # type: ignore[attr-defined]
        torch.rand(3)  # the CPU's generator is another one
        assert torch.equal(first, draw())

    def test_state_can_be_restored(self) -> None:
        """get_rng_state, set_rng_state and fork_rng bring a draw back."""
        state = torch.metalsim.get_rng_state()  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[0], device_type="metalsim"):
            first = torch.rand(4, device=DEVICE)
        assert torch.equal(first, torch.rand(4, device=DEVICE))
        torch.metalsim.set_rng_state(state)  # type: ignore[attr-defined]
        assert torch.equal(first, torch.rand(4, device=DEVICE))

    def test_own_generator(self) -> None:
        """A generator of the device works, one of the CPU is refused."""
        generator = torch.Generator(device=DEVICE).manual_seed(3)
        first = torch.rand(4, device=DEVICE, generator=generator)
        generator.manual_seed(3)
        again = torch.empty(4, device=DEVICE).uniform_(generator=generator)
        assert torch.equal(first, again)
        with pytest.raises(RuntimeError, match="generator"):
            torch.empty(4, device=DEVICE).uniform_(generator=torch.Generator())


class TestObjects:
    """Copies and files of tensors and modules."""

    def test_deepcopy_is_independent(self) -> None:
        """A deep copy of a module lies on the device and has its own memory."""
        module = nn.Linear(3, 2).to(DEVICE)
        twin = copy.deepcopy(module)
        module.weight.data.zero_()
        assert twin.weight.device == module.weight.device
        assert twin.weight.abs().sum().item() > 0

    def test_saved_tensor_loads_where_it_was(self) -> None:
        """torch.save and torch.load keep device, view and values."""
        file = io.BytesIO()
        torch.save(sample(4, 6).to(DEVICE)[1:, ::2], file)
        file.seek(0)
        assert_same(sample(4, 6)[1:, ::2], torch.load(file, weights_only=True))
        file.seek(0)
        on_cpu = torch.load(file, map_location="cpu", weights_only=True)
        assert on_cpu.device.type == "cpu"

    def test_state_dict_round_trip(self) -> None:
        """A module's state goes through a file into another module."""
        torch.manual_seed(0)
        first, second = (nn.Linear(3, 2).to(DEVICE) for _ in range(2))
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        state = torch.load(file, map_location=DEVICE, weights_only=True)
        second.load_state_dict(state)
        assert_same(first.weight.cpu(), second.weight.detach())


class Block(nn.Module):
    """A small transformer block with embedding and dropout."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token."""
        x = self.embedding(tokens)
        shape = (*x.shape[:2], 2, 8)
        parts = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (t.view(shape).transpose(1, 2) for t in parts)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + heads.transpose(1, 2).reshape(x.shape)
        return self.head(x + self.mlp(x))


Make = Callable[..., torch.optim.Optimizer]


def train(make: Make, device: torch.device, **options: Any) -> list[float]:
    """Return the losses of a few steps from a fixed seed."""
    torch.manual_seed(0)
    model = Block()
    tokens = torch.randint(0, 11, (4, 9))
    model, tokens = model.to(device), tokens.to(device)
    optimizer = make(model.parameters(), lr=1e-2, **options)
    losses = []
    for _ in range(8):
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


class TestTraining:
    """Autograd, optimizers, checkpointing."""

    @pytest.mark.parametrize("foreach", [False, True])
    @pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
    def test_transformer_trains_as_on_the_cpu(self, make: Make, foreach: bool) -> None:
        """A transformer block follows the CPU's loss curve."""
        expected = train(make, torch.device("cpu"), foreach=foreach)
        actual = train(make, DEVICE, foreach=foreach)
        assert expected == pytest.approx(actual, rel=1e-5)
        assert actual[-1] < actual[0]

    def test_gradients_pass_a_numerical_check(self) -> None:
        """Autograd's gradients agree with finite differences."""
        x = sample(3, 4).double().to(DEVICE).requires_grad_()
        w = sample(4, 2).double().to(DEVICE).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, w: (x @ w).tanh().sum(0), (x, w))

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpoint_repeats_dropout(self, use_reentrant: bool) -> None:
        """A checkpointed function draws the same dropout mask when it runs again."""
        from torch.utils.checkpoint import checkpoint

        x = torch.ones(64, device=DEVICE, requires_grad=True)
        out = checkpoint(lambda x: F.dropout(x, 0.5), x, use_reentrant=use_reentrant)
        out.sum().backward()
        assert_same(out.detach().cpu(), x.grad)

    def test_modules_work(self) -> None:
        """Convolution, batch norm and pooling give the CPU's numbers."""
        torch.manual_seed(0)
        convolution, norm = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)
        model = nn.Sequential(convolution, norm, nn.ReLU(), nn.MaxPool1d(2))
        x = sample(2, 4, 12)
        expected = model(x).detach()
        norm.reset_running_stats()
        actual = model.to(DEVICE)(x.to(DEVICE))
        torch.testing.assert_close(actual.detach().cpu(), expected)
        actual.sum().backward()
        assert convolution.weight.grad.device.type == "metalsim"


class TestErrors:
    """What is refused."""

    def test_another_owner_of_the_device_type_is_named(self) -> None:
        """enable() says who took PyTorch's spare device type."""
        done = run_python(
            "import torch\ntorch.utils.rename_privateuse1_backend('other')\n"
            "from orchard_ops import sim\nsim.enable()"
        )
        assert "DeviceError" in done.stderr
        assert "'other'" in done.stderr

    def test_foreign_pointer_is_refused(self) -> None:
        """A storage that is no simulated buffer is an error, never dereferenced."""
        storage = torch._C._construct_storage_from_data_pointer(8, DEVICE, 64)
        wrapped = torch.empty(0, device=DEVICE).set_(storage, 0, (4,), (1,))
        with pytest.raises(RuntimeError, match=r"\[DeviceError\].*own allocator"):
            wrapped.add_(1)
        with pytest.raises(RuntimeError, match=r"\[DeviceError\].*own allocator"):
            wrapped.cpu()

    def test_index_beyond_the_only_device_is_refused(self) -> None:
        """There is one device, with index 0."""
        with pytest.raises(RuntimeError, match="metalsim:0"):
            torch.empty(1, device="metalsim:1")

    def test_sparse_layout_is_refused(self) -> None:
        """The device has strided tensors only."""
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.eye(3, device=DEVICE).to_sparse()


def test_a_program_may_end_after_a_backward() -> None:
    """PyTorch's own thread for the device does not abort a process that is ending.

    Without care it does, on 2.13.
    """
    subprocess.run(python(END_AFTER_BACKWARD, DEVICE.type), check=True)


def test_there_is_one_device() -> None:
    """Number 0; another one is refused wherever it is named."""
    module: Any = torch.metalsim  # type: ignore[attr-defined]
    assert (module.device_count(), module.current_device()) == (1, 0)
    with module.device(0):
        module.synchronize()
    with pytest.raises(orchard_ops.UnsupportedError, match="expected device 0"):
        module.synchronize(1)
    with (
        pytest.raises(orchard_ops.UnsupportedError, match="expected device 0"),
        module.device(1),
    ):
        pass


def test_counters_are_set_to_zero(device: torch.device) -> None:
    """All of them at once."""
    q = torch.ones(1, 1, 3, 16).to(device)
    orchard_ops.flash_attention(q, q, q)
    assert any(sim.counters().values())
    sim.reset_counters()
    assert not any(sim.counters().values())
