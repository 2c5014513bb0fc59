"""The operators among PyTorch's own tools: compile, export, func, checkpoint, hooks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from harness import bits, count_calls
from needs import TORCH
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend
from torch.utils.checkpoint import checkpoint

import orchard_ops
from orchard_ops import UnsupportedError, flash_attention, flash_attn, sdpa
from orchard_ops._arguments import Arguments
from orchard_ops.flash_attn import bert_padding

SHAPE = (2, 4, 17, 64)
aot_eager = lookup_backend("aot_eager")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Forget compiled code, so that no test depends on another."""
    yield
    torch._dynamo.reset()


def draw(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return leaves of random numbers, the same in every test."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.to(device).requires_grad_() for tensor in tensors]


@dataclass(frozen=True)
class Program:
    """A function of leaves of these shapes, as a user would compile it."""

    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (SHAPE,) * 3


def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend within two packed sequences."""
    ends = torch.tensor([0, 9, 31], dtype=torch.int32).to(q.device)
    return orchard_ops.flash_attention_varlen(q, k, v, ends, ends, 22, 22)


def everything(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, sinks: Tensor) -> Tensor:
    """Use many features at once."""
    return flash_attention(
        q, k, v, bias, is_causal=True, scale=0.2, window=(9, 2), softcap=4.0,
        alibi_slopes=sinks.detach().abs(), sinks=sinks,
        causal_alignment="bottom-right",
    )  # fmt: skip


PROGRAMS = {
    "plain": Program(flash_attention),
    "intermediate": Program(lambda q, k, v: flash_attention(q + 1, k * 2, v - 1)),
    "causal": Program(lambda q, k, v: flash_attention(q, k, v, is_causal=True)),
    "bool mask": Program(lambda q, k, v: flash_attention(q, k, v, q[..., :17] > -1)),
    "bias": Program(flash_attention, ((SHAPE,) * 3) + ((4, 17, 17),)),
    "dropout": Program(lambda q, k, v: flash_attention(q, k, v, dropout_p=0.4)),
    "lse": Program(lambda q, k, v: flash_attention(q, k, v, return_lse=True)[0]),
    "grouped": Program(flash_attention, (SHAPE, (2, 2, 17, 64), (2, 2, 17, 64))),
    "everything": Program(
        everything, (SHAPE, (2, 2, 23, 64), (2, 2, 23, 64), (1, 4, 17, 23), (4,))
    ),
    "3-d": Program(flash_attention, ((2, 17, 64),) * 3),
    "packed": Program(packed, ((31, 2, 64),) * 3),
    "flash_attn_func": Program(flash_attn.flash_attn_func, ((2, 17, 4, 64),) * 3),
    "sdpa": Program(lambda q, k, v: F.scaled_dot_product_attention(q * 2, k, v)),
    "sdpa with a bias": Program(
        lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, bias),
        ((SHAPE,) * 3) + ((2, 1, 17, 17),),
    ),
}
if TORCH >= (2, 5):
    PROGRAMS["sdpa with groups"] = Program(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (SHAPE, (2, 2, 17, 64), (2, 2, 17, 64)),
    )


def train(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Return output and gradients of a step whose random numbers repeat."""
    torch.manual_seed(3)
    out = function(*leaves)
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_training(name: str, dynamic: bool, device: torch.device) -> None:
    """torch.compile takes each feature in one graph; forward and backward keep bits."""
    program = PROGRAMS[name]
    leaves = draw(device, *program.shapes)
    with sdpa.enabled(), count_calls() as calls:
        want = train(program.call, leaves)
        compiled = torch.compile(
            program.call, backend="aot_eager", fullgraph=True, dynamic=dynamic
        )
        got = train(compiled, leaves)
    assert (calls.fwd, calls.bwd) == (2, 2)
    for ours, exact in zip(got, want):
        assert torch.equal(bits(ours), bits(exact))


def test_one_graph_for_all_lengths(device: torch.device) -> None:
    """With dynamic=True other lengths and batches are not compiled anew."""
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(flash_attention, backend=backend, dynamic=True)
    for batch, length in ((2, 8), (3, 9), (4, 33)):
        (q,) = draw(device, (batch, 4, length, 64))
        got = compiled(q, q, q, is_causal=True)
        want = flash_attention(q, q, q, is_causal=True)
        assert torch.equal(bits(got), bits(want))
    assert len(graphs) == 1


def longest_of(ends: Tensor) -> int:
    """Return the longest sequence's length, as a model computes it."""
    longest: Any = (ends[1:] - ends[:-1]).max().item()  # a symbol, when compiled
    return longest


def ragged(q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> Tensor:
    """Attend within packed sequences whose longest only the device knows."""
    longest = longest_of(ends)
    return orchard_ops.flash_attention_varlen(
        q, k, v, ends, ends, longest, longest, is_causal=True
    )


def ragged_dao(q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> Any:
    """Do the same by Dao's function."""
    longest = longest_of(ends)
    return flash_attn.flash_attn_varlen_func(
        q, k, v, ends, ends, longest, longest, causal=True
    )


def unpadded(x: Tensor, _: Tensor, __: Tensor, mask: Tensor) -> Tensor:
    """Attend to the tokens that a mask keeps: as many as the device says."""
    tokens, places, ends, longest, _ = bert_padding.unpad_input(x, mask)
    out: Any = flash_attn.flash_attn_varlen_func(
        tokens, tokens, tokens, ends, ends, longest, longest, causal=True
    )
    return bert_padding.pad_input(out, places, *mask.shape)


def with_more(
    function: Callable[..., Tensor], more: list[Tensor], *leaves: Tensor
) -> Tensor:
    """Call a function with leaves and then with what gets no gradient."""
    return function(*leaves, *more)


@pytest.fixture
def computed_numbers() -> Iterator[None]:
    """Let graphs hold numbers, and sizes, that come from tensors."""
    names = ("capture_scalar_outputs", "capture_dynamic_output_shape_ops")
    with torch._dynamo.config.patch(dict.fromkeys(names, True)):
        yield


@pytest.mark.usefixtures("computed_numbers")
@pytest.mark.parametrize(
    ("function", "dynamic"),
    [(ragged, False), (ragged, True), (ragged_dao, False), (unpadded, True)],
)
def test_lengths_computed_in_the_graph(
    function: Callable[..., Tensor], dynamic: bool, device: torch.device
) -> None:
    """max_seqlen may come out of cu_seqlens: one graph for all lengths, same bits."""
    if function is unpadded:
        if TORCH < (2, 4):
            pytest.skip("sizes from tensors have no gradient before PyTorch 2.4")
        leaves = draw(device, (3, 12, 2, 64))
        inputs = [(torch.arange(12) < torch.tensor(kept)[:, None]).int()
                  for kept in ([9, 12, 4], [12, 0, 1])]  # fmt: skip
    else:
        leaves = draw(device, *[(31, 2, 64)] * 3)
        inputs = [torch.tensor(ends, dtype=torch.int32) for ends in
                  ([0, 9, 31], [0, 31, 31], [0, 14, 28])]  # fmt: skip
    graphs, made = [], set()

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, examples)

    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)
    for given in inputs:
        more = [leaves[0]] * (3 - len(leaves)) + [given.to(device)]
        want = train(partial(with_more, function, more), leaves)
        with count_calls() as calls:
            got = train(partial(with_more, compiled, more), leaves)
        assert (calls.fwd, calls.bwd) == (1, 1)
        for ours, exact in zip(got, want):
            assert torch.equal(bits(ours), bits(exact))
        made.add(len(graphs))
    assert len(made) == 1  # nothing was compiled after the first call


@pytest.mark.usefixtures("computed_numbers")
def test_a_computed_cache_length(device: torch.device) -> None:
    """cache_seqlens may be a number out of a tensor, in one graph."""
    (q, cache) = (t.detach() for t in draw(device, (2, 1, 2, 64), (2, 32, 2, 64)))

    def decode(filled: Tensor) -> Any:
        length: Any = filled.max().item()
        return flash_attn.flash_attn_with_kvcache(q, cache, cache, cache_seqlens=length)

    compiled = torch.compile(decode, backend="aot_eager", fullgraph=True)
    for filled in ([3, 9], [32, 1]):
        lengths = torch.tensor(filled, dtype=torch.int32).to(device)
        assert torch.equal(bits(compiled(lengths)), bits(decode(lengths)))


@pytest.mark.usefixtures("computed_numbers")
def test_a_computed_length_is_checked_when_it_runs(device: torch.device) -> None:
    """A number out of a tensor that is no length raises an error in the run."""
    (q,) = (t.detach() for t in draw(device, (31, 2, 64)))
    ends = torch.tensor([0, 31], dtype=torch.int32).to(device)

    def attend(longest: Tensor) -> Tensor:
        number: Any = longest.max().item()
        return orchard_ops.flash_attention_varlen(q, q, q, ends, ends, number, number)

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    right, wrong = (torch.tensor([n, n]).to(device) for n in (31, -5))
    assert torch.equal(bits(compiled(right)), bits(attend(right)))
    with pytest.raises(RuntimeError, match=r"-5|[iu]\d+ (<|>)= 0"):
        compiled(wrong)


def test_traced_by_torchscript(device: torch.device) -> None:
    """torch.jit.trace takes the functions themselves, and what asks for support."""
    (q,) = (t.detach() for t in draw(device, SHAPE))

    def attend(q: Tensor) -> Tensor:
        assert orchard_ops.supports(q, q, q)[0]
        return flash_attention(q, q, q, is_causal=True)

    traced = torch.jit.trace(attend, (q,))
    with count_calls() as calls:
        out = traced(q)
    assert calls.fwd == 1
    assert torch.equal(bits(out), bits(attend(q)))


def test_compiled_dropout_draws_anew(device: torch.device) -> None:
    """A compiled step draws new dropout each time: the draw is not made a constant."""
    (q,) = draw(device, SHAPE)
    compiled = torch.compile(
        lambda q: flash_attention(q, q, q, dropout_p=0.5), backend="aot_eager"
    )
    torch.manual_seed(0)
    first, second = compiled(q), compiled(q)
    assert not torch.equal(bits(first), bits(second))
    torch.manual_seed(0)
    assert torch.equal(bits(compiled(q)), bits(first))


def test_compiled_sdpa_falls_back(device: torch.device) -> None:
    """What the kernels do not take is PyTorch's in compiled code too."""
    with sdpa.enabled(), count_calls() as calls:
        for where, size in (("cpu", 64), (device, 600)):
            q = torch.randn(1, 2, 5, size).to(where)
            compiled = torch.compile(
                lambda q: F.scaled_dot_product_attention(q, q, q), backend="aot_eager"
            )
            want = F.scaled_dot_product_attention(q, q, q)
            assert torch.equal(compiled(q).cpu(), want.cpu())
    assert calls.fwd == 0


class Attend(nn.Module):
    """A layer with weights, and attention."""

    def __init__(self) -> None:
        """Make the weights."""
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor, dropout_p: float = 0.0) -> Tensor:
        """Attend from projected queries."""
        q = self.linear(x)
        return flash_attention(q, x, x, dropout_p=dropout_p, is_causal=True)


@pytest.mark.skipif(TORCH < (2, 4), reason="torch.export is stable from 2.4 on")
def test_export(device: torch.device) -> None:
    """torch.export keeps the operator as one call and computes the same bits."""
    module = Attend().to(device)
    (x,) = (leaf.detach() for leaf in draw(device, SHAPE))
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: batch}})
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("orchard_ops.forward.default") == 1
    for given in (x, torch.cat([x, x])):
        assert torch.equal(bits(program.module()(given)), bits(module(given)))


def operator_arguments(device: torch.device, name: str) -> Arguments:
    """Return arguments of ``torch.ops.orchard_ops.forward``."""
    q, k, v, bias, sinks = draw(
        device, (2, 4, 9, 8), (2, 2, 12, 8), (2, 2, 12, 16), (1, 4, 9, 12), (4,)
    )
    if name == "features":
        return Arguments(
            q, k, v, bias, scale=0.3, softcap=5.0, window_left=4, window_right=0,
            is_bottom_right=True, alibi_slopes=sinks.detach(), sinks=sinks,
        )  # fmt: skip
    if name == "dropout":
        return Arguments(q, k, v, dropout_p=0.3, seed=torch.tensor(7))
    if name == "packed":
        q, k, v = draw(device, (1, 4, 9, 8), (1, 2, 12, 8), (1, 2, 12, 8))
        starts_q = torch.tensor([0, 4, 9], dtype=torch.int32).to(device)
        starts_k = torch.tensor([0, 7, 12], dtype=torch.int32).to(device)
        return Arguments(
            q, k, v, cu_seqlens_q=starts_q, cu_seqlens_k=starts_k,
            max_seqlen_q=5, max_seqlen_k=7,
        )  # fmt: skip
    return Arguments(q, k, v, is_causal=name == "causal")


@pytest.mark.parametrize("name", ["plain", "causal", "features", "dropout", "packed"])
def test_operators_are_registered_well(name: str, device: torch.device) -> None:
    """PyTorch's own checks of schema, fake tensors and tracing pass."""
    arguments = operator_arguments(device, name)
    opcheck(torch.ops.orchard_ops.forward.default, tuple(arguments))
    arguments = arguments._replace(return_lse=True)
    if name == "features":
        opcheck(torch.ops.orchard_ops.forward.default, tuple(arguments))
    with torch.no_grad():
        out, lse, stats = torch.ops.orchard_ops.forward(*arguments)
    has_bias = arguments.attn_mask is not None
    wanted = [True] * 3 + [has_bias] * 2
    grad_lse = torch.ones_like(lse) if has_bias else None
    plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    opcheck(
        torch.ops.orchard_ops.backward.default,
        (torch.ones_like(out), grad_lse, out, lse, stats, wanted, *plain),
    )


@pytest.mark.parametrize("name", ["plain", "causal"])
def test_short_operators_are_registered_well(name: str, device: torch.device) -> None:
    """They pass the same checks, as compositions of forward."""
    arguments = tuple(operator_arguments(device, name))
    short = torch.ops.orchard_ops.attention
    for operator, given in ((short.default, 8), (short.window, 11)):
        opcheck(operator, arguments[:given], ("CompositeImplicitAutograd",))


def opcheck(
    operator: Any,
    arguments: tuple[Any, ...],
    keys: tuple[str, ...] = ("Autograd", "Meta"),
) -> None:
    """Run PyTorch's checks, by version; that of autograd knows no device but CUDA."""
    if TORCH >= (2, 4):
        check = torch.library.opcheck
    else:
        from torch.testing._internal import optests

        check = optests.opcheck  # type: ignore[attr-defined]
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    check(operator, arguments, test_utils=utilities)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert all(has_kernel(operator.name(), key) for key in keys)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_repeats_dropout(use_reentrant: bool, device: torch.device) -> None:
    """Activation checkpointing draws the same dropout again: the same bits."""
    q, k, v = draw(device, *[SHAPE] * 3)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_attention(q, k, v, dropout_p=0.4, is_causal=True)

    def checkpointed(*tensors: Tensor) -> Tensor:
        return checkpoint(attend, *tensors, use_reentrant=use_reentrant)

    def stored(out: Tensor) -> list[Tensor]:
        q.grad = k.grad = v.grad = None
        out.square().sum().backward()
        return [out, q.grad, k.grad, v.grad]

    torch.manual_seed(3)
    want = stored(attend(q, k, v))
    with count_calls() as calls:
        torch.manual_seed(3)
        got = stored(checkpointed(q, k, v))
    assert (calls.fwd, calls.bwd) == (2, 1)
    for ours, exact in zip(got, want):
        assert torch.equal(bits(ours), bits(exact))


def test_vmap(device: torch.device) -> None:
    """torch.func.vmap equals a loop; it has no gradient inside, but one around it."""
    (q,) = draw(device, (3, *SHAPE))
    mask = (torch.arange(17) % 4 < 3).expand(3, 17, 17).contiguous().to(device)

    def attend(x: Tensor, mask: Tensor) -> Tensor:
        return flash_attention(x, x, x, mask)

    with torch.no_grad():
        got = torch.func.vmap(attend)(q, mask)
        want = torch.stack([attend(*pair) for pair in zip(q, mask)])
    assert torch.equal(bits(got), bits(want))


def test_masks_on_the_cpu_are_traced() -> None:
    """What a mask holds can't be asked there: neither vmap nor a full graph minds."""
    (q,) = (leaf.detach() for leaf in draw(torch.device("cpu"), SHAPE))
    masks = torch.rand(3, 17, 17) < 0.7

    def attend(mask: Tensor, scale: float = 0.3) -> Tensor:
        return flash_attention(q, q, q, mask, scale=scale)

    want = torch.stack([attend(mask) for mask in masks])
    torch.testing.assert_close(torch.func.vmap(attend)(masks), want)
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(masks[0]), want[0])


def test_default_device_changes_nothing(device: torch.device) -> None:
    """torch.set_default_device moves what a user makes, and nothing of ours."""
    (q,) = (leaf.detach() for leaf in draw(device, SHAPE))
    before = sdpa.explain(q, q, q, dropout_p=0.5)
    cache = q.new_zeros(4, 256, 4, 64)
    ends = torch.tensor([0, 17, 34], dtype=torch.int32).to(device)
    table = torch.tensor([[0], [2]], dtype=torch.int32).to(device)
    with torch.device(device):
        assert sdpa.explain(q, q, q, dropout_p=0.5) == before
        flash_attention(q, q, q, dropout_p=0.5)
        flash_attention(q.cpu(), q.cpu(), q.cpu(), dropout_p=0.5)
        orchard_ops.flash_attn.flash_attn_varlen_func(
            q.transpose(1, 2).flatten(0, 1), cache, cache, ends, ends, 17, 17,
            block_table=table,
        )  # fmt: skip


def test_vmap_asks_how_dropout_is_meant(device: torch.device) -> None:
    """Under vmap dropout needs randomness="different" or "same", as PyTorch's does."""
    (q,) = (leaf.detach() for leaf in draw(device, (2, 1, 4, 17, 64)))
    q = q[:1].expand(2, -1, -1, -1, -1)

    def attend(x: Tensor) -> Tensor:
        return flash_attention(x, x, x, dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(attend)(q)
    one, other = torch.func.vmap(attend, randomness="different")(q)
    assert not torch.equal(bits(one), bits(other))
    one, other = torch.func.vmap(attend, randomness="same")(q)
    assert torch.equal(bits(one), bits(other))


def test_functional_call(device: torch.device) -> None:
    """functional_call trains weights given from outside."""
    module = Attend().to(device)
    (x,) = (leaf.detach() for leaf in draw(device, SHAPE))
    weights = {
        key: value.detach().clone().requires_grad_()
        for key, value in module.named_parameters()
    }
    torch.func.functional_call(module, weights, (x,)).square().sum().backward()
    module(x).square().sum().backward()
    for key, value in module.named_parameters():
        assert torch.equal(bits(weights[key].grad), bits(value.grad))


def transformed(name: str) -> Callable[[Tensor], object]:
    """Return a torch.func transform of attention."""

    def loss(x: Tensor) -> Tensor:
        return flash_attention(x, x, x).sum()

    return {
        "grad": torch.func.grad(loss),
        "vjp": lambda x: torch.func.vjp(loss, x),
        "jvp": lambda x: torch.func.jvp(loss, (x,), (x,)),
        "vmap of grad": lambda x: torch.func.vmap(torch.func.grad(loss))(x[None]),
        "hessian": torch.func.hessian(loss),
    }[name]


@pytest.mark.parametrize("name", ["grad", "vjp", "jvp", "vmap of grad", "hessian"])
def test_transforms_are_refused(name: str, device: torch.device) -> None:
    """Derivatives by torch.func get an error that says what to do."""
    (x,) = (leaf.detach() for leaf in draw(device, SHAPE))
    with pytest.raises(UnsupportedError, match=r"torch\.autograd, or"):
        transformed(name)(x)


def test_forward_mode_is_refused(device: torch.device) -> None:
    """Forward-mode differentiation gets the same error."""
    (x,) = (leaf.detach() for leaf in draw(device, SHAPE))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(UnsupportedError, match="forward-mode"):
            flash_attention(dual, x, x)


def test_every_subset_of_gradients(device: torch.device) -> None:
    """Whatever requires a gradient gets the bits it gets when all do.

    Without scratch, which is taken only where dq, dk and dv are all wanted.
    """
    program = PROGRAMS["everything"]
    leaves = draw(device, *program.shapes)
    with orchard_ops.backward_scratch(0):
        _, *all_of_them = train(program.call, leaves)
    for wanted in itertools.product([False, True], repeat=len(leaves)):
        for leaf, is_wanted in zip(leaves, wanted):
            leaf.requires_grad_(is_wanted)
        out = program.call(*leaves)
        assert out.requires_grad == any(wanted)
        if not any(wanted):
            continue
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        with orchard_ops.backward_scratch(0):
            grads = iter(torch.autograd.grad(out.square().sum(), asked))
        for exact, is_wanted in zip(all_of_them, wanted):
            if is_wanted:
                assert torch.equal(bits(next(grads)), bits(exact))


def test_retain_graph(device: torch.device) -> None:
    """A kept graph gives the same gradients again; a freed one says it is freed."""
    q, k, v = leaves = draw(device, *[SHAPE] * 3)
    loss = flash_attention(q, k, v, dropout_p=0.3).square().sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(first, second))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


def test_a_changed_input_is_noticed(device: torch.device) -> None:
    """Backward refuses when an input was changed in place since forward."""
    q, k, v = draw(device, *[SHAPE] * 3)
    out = flash_attention(q, k, v)
    with torch.no_grad():
        k.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_gradients_of_gradients_are_refused(device: torch.device) -> None:
    """A double backward raises an error that says what to do."""
    (q,) = draw(device, SHAPE)
    (grad,) = torch.autograd.grad(flash_attention(q, q, q).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"double backward.*create_graph"):
        grad.sum().backward()


def test_saved_tensors_hooks(device: torch.device) -> None:
    """What is kept for backward goes through the hooks, so it can be moved away."""
    q, k, v, bias = leaves = draw(device, *[SHAPE] * 3, (1, 4, 17, 17))
    want = train(flash_attention, leaves)
    saved: list[torch.device] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.device)
        return tensor.cpu()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t.to(device)):
        out = flash_attention(q, k, v, bias)
    # q, k, v, the mask, out, lse and what goes with it; not more than that.
    assert 6 <= len(saved) <= 7
    assert {where.type for where in saved} == {device.type}
    grads = torch.autograd.grad(out.square().sum(), leaves)
    for ours, exact in zip((out, *grads), want):
        assert torch.equal(bits(ours), bits(exact))


def test_deep_copies_train_apart(device: torch.device) -> None:
    """A deep copy of a module that attends computes the same and trains alone."""
    module = Attend().to(device)
    twin = copy.deepcopy(module)
    (x,) = (leaf.detach() for leaf in draw(device, SHAPE))
    assert torch.equal(bits(twin(x)), bits(module(x)))
    module(x).sum().backward()
    assert twin.linear.weight.grad is None
    assert module.linear.weight.grad is not None


def test_inference_mode(device: torch.device) -> None:
    """Under inference_mode the result is the same, and keeps no graph."""
    (q,) = draw(device, SHAPE)
    with torch.inference_mode():
        out = flash_attention(q, q, q)
    assert out.is_inference()
    assert torch.equal(bits(out), bits(flash_attention(q, q, q)))
