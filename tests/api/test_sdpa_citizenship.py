"""sdpa.enable() among what looks at PyTorch's function: biases, tracers, subclasses."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from harness import count_calls
from needs import TORCH
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import scaled_dot_product_attention as PYTORCH
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from orchard_ops import sdpa

SHAPE = (2, 4, 17, 64)
needs_bias = pytest.mark.skipif(
    TORCH < (2, 3), reason="torch.nn.attention.bias came with PyTorch 2.3"
)


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    """Begin with no counts, and leave PyTorch's own function behind."""
    sdpa.reset_fallbacks()
    yield
    if sdpa.is_enabled():
        sdpa.disable()
    assert F.scaled_dot_product_attention is PYTORCH


def draw(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return tensors of random numbers, the same ones in every test."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


class Attend(nn.Module):
    """A layer as models have it: a projection, and the function by its module."""

    def __init__(self) -> None:
        """Make the weights."""
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from projected queries."""
        return F.scaled_dot_product_attention(self.linear(x), x, x, is_causal=True)


def test_the_biases_came_with_2_3() -> None:
    """The versions that the tests of biases leave out are those without them."""
    try:
        found = importlib.util.find_spec("torch.nn.attention.bias")
    except ModuleNotFoundError:  # No torch.nn.attention, or a module without parts.
        found = None
    assert (found is not None) == (TORCH >= (2, 3))


def causal_bias(variant: str, len_q: int, len_kv: int) -> tuple[Any, Tensor]:
    """Return one of PyTorch's two biases, and what it means as a bool mask."""
    from torch.nn.attention import bias

    with warnings.catch_warnings():  # of NaN, where rows see nothing
        warnings.simplefilter("ignore")
        made = getattr(bias, f"causal_{variant}")(len_q, len_kv)
    offset = 0 if variant == "upper_left" else len_kv - len_q
    return made, torch.ones(len_q, len_kv, dtype=torch.bool).tril(offset)


@needs_bias
@pytest.mark.parametrize("where", ["cpu", "device"])
@pytest.mark.parametrize("lengths", [(9, 9), (5, 12), (12, 5)])
@pytest.mark.parametrize("variant", ["upper_left", "lower_right"])
def test_causal_biases(
    variant: str, lengths: tuple[int, int], where: str, device: torch.device
) -> None:
    """Both biases mean what they say, with gradients; the kernels serve them."""
    bias, mask = causal_bias(variant, *lengths)
    place = device if where == "device" else torch.device("cpu")
    q, k, v, grad = draw(
        place, *((2, 4, length, 64) for length in (*lengths, lengths[1], lengths[0]))
    )
    sees = mask.any(-1)
    grad = grad * sees[:, None].to(place)
    exact = [t.detach().cpu().double().requires_grad_() for t in (q, k, v)]
    scores = (exact[0] @ exact[1].mT / 8).masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, -1).masked_fill(~sees[:, None], 0.0)
    want = weights @ exact[2]
    wanted = torch.autograd.grad(want, exact, grad.cpu().double())
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with sdpa.enabled(), count_calls() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of kernels that it has not
        assert sdpa.explain(q, k, v, bias).is_routed == (where == "device")
        out = F.scaled_dot_product_attention(q, k, v, bias)
        grads = torch.autograd.grad(out, leaves, grad)
    assert (calls.fwd, calls.bwd) == ((1, 1) if where == "device" else (0, 0))
    rows = slice(None) if where == "device" else sees  # PyTorch: NaN without keys
    assert torch.allclose(
        out.detach().cpu().double()[:, :, rows], want[:, :, rows], atol=2e-5
    )
    if where == "device" or sees.all():
        for got, right in zip(grads, wanted):
            assert torch.allclose(got.cpu().double(), right, atol=2e-5)


@needs_bias
def test_causal_biases_that_do_not_fit_are_pytorchs(device: torch.device) -> None:
    """A bias of other lengths, or beside is_causal, is left to PyTorch's rules."""
    bias, _ = causal_bias("lower_right", 5, 12)
    (q,) = draw(device, SHAPE)
    assert "other lengths" in sdpa.explain(q, q, q, bias).reason
    assert "is_causal" in sdpa.explain(q, q, q, bias, is_causal=True).reason
    with sdpa.enabled(), pytest.raises(ValueError, match="CausalBias"):
        F.scaled_dot_product_attention(q, q, q, bias, is_causal=True)


@needs_bias
def test_causal_biases_too_wide_are_counted_once(device: torch.device) -> None:
    """What the kernels do not take stays right, and is one fallback."""
    bias, mask = causal_bias("lower_right", 3, 5)
    q, k = draw(device, (1, 1, 3, 600), (1, 1, 5, 600))
    with sdpa.enabled(), count_calls() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = F.scaled_dot_product_attention(q, k, k, bias)
    want = PYTORCH(q.cpu(), k.cpu(), k.cpu(), mask)
    assert torch.allclose(out.cpu(), want, atol=1e-5)
    assert (calls.fwd, list(sdpa.fallbacks().values())) == (0, [1])


@needs_bias
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_causal_biases_of_a_function_imported_by_name(
    where: str, device: torch.device
) -> None:
    """Code that imported PyTorch's function before enable() may pass a bias too."""
    bias, mask = causal_bias("lower_right", 3, 5)
    place = device if where == "device" else torch.device("cpu")
    q, k = draw(place, (1, 1, 3, 8), (1, 1, 5, 8))
    with sdpa.enabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = PYTORCH(q, k, k, bias)
    want = PYTORCH(q.cpu(), k.cpu(), k.cpu(), mask)
    assert torch.allclose(out.cpu(), want, atol=1e-5)


@needs_bias
def test_causal_biases_in_compiled_code(device: torch.device) -> None:
    """A compiled function takes either bias, one graph each, through the kernels."""
    q, k = draw(device, (1, 2, 5, 8), (1, 2, 9, 8))
    compiled = torch.compile(
        lambda bias: F.scaled_dot_product_attention(q, k, k, bias),
        backend="aot_eager",
        fullgraph=True,
    )
    for variant in ("lower_right", "upper_left"):
        bias, mask = causal_bias(variant, 5, 9)
        want = PYTORCH(q.cpu(), k.cpu(), k.cpu(), mask)
        with sdpa.enabled(), count_calls() as calls:
            got = compiled(bias)
        assert calls.fwd == 1
        assert torch.allclose(got.cpu(), want, atol=1e-5)
    torch._dynamo.reset()


def test_symbolic_trace(device: torch.device) -> None:
    """torch.fx traces PyTorch's own function, as without us."""
    module = Attend().to(device)
    without = torch.fx.symbolic_trace(module)
    with sdpa.enabled():
        traced = torch.fx.symbolic_trace(module)
    assert traced.code == without.code
    assert [n.target for n in traced.graph.nodes].count(PYTORCH) == 1
    (x,) = draw(device, SHAPE)
    assert torch.allclose(traced(x).cpu(), module(x).cpu(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_torchscript(how: str, where: str, device: torch.device) -> None:
    """torch.jit scripts and traces PyTorch's own function; the result can be saved."""
    place = device if where == "device" else torch.device("cpu")
    x = draw(place, SHAPE)[0]

    def make() -> torch.jit.ScriptModule:
        class Anew(Attend):  # what was compiled for a class is kept
            pass

        module = Anew().to(place).eval()
        return (
            torch.jit.script(module) if how == "script" else torch.jit.trace(module, x)
        )

    with sdpa.enabled():
        made = make()
        got = made(x)
    without = make()
    assert operators(made) == operators(without)
    assert "aten::scaled_dot_product_attention" in operators(made)
    assert torch.allclose(got.cpu(), without(x).cpu(), atol=1e-6)
    file = io.BytesIO()
    torch.jit.save(made, file)
    file.seek(0)
    assert torch.allclose(torch.jit.load(file)(x).cpu(), got.cpu())


def operators(module: torch.jit.ScriptModule) -> list[str]:
    """Return the kinds of a graph's nodes."""
    return [node.kind() for node in module.inlined_graph.nodes()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_multihead_attention_can_be_scripted() -> None:
    """A module of PyTorch's that looks the function up is scripted as without us."""
    module = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    with sdpa.enabled():
        got = torch.jit.script(module)(x, x, x)[0]
    assert torch.allclose(got, module(x, x, x)[0], atol=1e-6)


class Seeing(TorchFunctionMode):
    """Keeps the functions that are called."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Keep the function and call it."""
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_function_modes_see_pytorchs_function(device: torch.device) -> None:
    """A TorchFunctionMode is shown what it would be shown without us."""
    (q,) = draw(device, SHAPE)
    with Seeing() as without:
        PYTORCH(q, q, q, is_causal=True)
    with sdpa.enabled(), Seeing() as mode:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
        assert "TorchFunctionMode" in sdpa.explain(q, q, q).reason
    assert [f for f in mode.seen if f in without.seen] == [PYTORCH]
    assert sdpa.fallbacks() == {"inside a TorchFunctionMode": 1}


def test_a_default_device_does_not_stop_the_kernels(device: torch.device) -> None:
    """PyTorch's own mode for default devices has nothing to say about the function."""
    (q,) = draw(device, SHAPE)
    with sdpa.enabled(), torch.device(device), count_calls() as calls:
        F.scaled_dot_product_attention(q, q, q)
    assert (calls.fwd, sdpa.fallbacks()) == (1, {})


class Watching(TorchDispatchMode):
    """Keeps the names of the operators that run."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Keep the name and run it."""
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def test_dispatch_modes_see_one_operator(device: torch.device) -> None:
    """A TorchDispatchMode sees the kernels' operator, and nothing that returns text."""
    (q,) = draw(device, SHAPE)
    with sdpa.enabled(), Watching() as mode:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert [n for n in mode.seen if n.startswith("orchard")] == ["orchard_ops::forward"]


def test_fake_tensors_have_the_shape(device: torch.device) -> None:
    """Under FakeTensorMode a call gives the shape and launches nothing."""
    with sdpa.enabled(), count_calls() as calls, FakeTensorMode() as mode:
        q = mode.from_tensor(torch.empty(2, 4, 5, 8, device="meta"))
        real = torch.empty(2, 4, 5, 8, device=device)
        for fake in (q, real):
            out = F.scaled_dot_product_attention(fake, fake, fake)
            assert (out.shape, out.device) == (fake.shape, fake.device)
    assert calls.fwd == 0


def test_make_fx(device: torch.device) -> None:
    """Tracing by operators sees PyTorch's own, as without us."""
    (q,) = draw(device, SHAPE)
    without = make_fx(lambda q: PYTORCH(q, q, q))(q)
    with sdpa.enabled():
        traced = make_fx(lambda q: F.scaled_dot_product_attention(q, q, q))(q)
    assert traced.code == without.code
    assert torch.allclose(
        traced(q).cpu(), PYTORCH(q.cpu(), q.cpu(), q.cpu()), atol=1e-5
    )


class Wrapping(Tensor):
    """As DTensor: a tensor that holds another, and knows PyTorch's operators."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Wrapping:
        """Wrap a tensor."""
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device=held.device
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run PyTorch's operators on what is held, and refuse all others."""
        if not function.name().startswith("aten::"):
            raise NotImplementedError(function.name())

        def unwrap(x: Any) -> Any:
            return x.held if isinstance(x, Wrapping) else x

        def wrap(x: Any) -> Any:
            return cls(x) if isinstance(x, Tensor) else x

        return tree_map(wrap, function(*tree_map(unwrap, args), **(kwargs or {})))


def test_wrappers_see_pytorchs_operators(device: torch.device) -> None:
    """A subclass that knows no operator of ours gets PyTorch's."""
    (q,) = draw(device, (1, 2, 5, 8))
    wrapped = Wrapping(q)
    with sdpa.enabled():
        assert "subclass" in sdpa.explain(wrapped, q, q).reason
        out = F.scaled_dot_product_attention(wrapped, Wrapping(q), Wrapping(q))
    assert isinstance(out, Wrapping)
    want = PYTORCH(q.cpu(), q.cpu(), q.cpu())
    assert torch.allclose(out.held.cpu(), want, atol=1e-5)


class Strict(Tensor):
    """A subclass that answers for the function with the arguments it was given."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Return what came."""
        if function is PYTORCH:
            return args, kwargs
        return super().__torch_function__(function, types, args, kwargs or {})


def test_subclasses_get_the_arguments_as_given(device: torch.device) -> None:
    """Whichever argument it is, a subclass gets what the caller wrote."""
    (q,) = draw(device, (1, 1, 2, 8))
    mask = torch.ones(2, 2, dtype=torch.bool).to(device).as_subclass(Strict)
    with sdpa.enabled():
        args, options = F.scaled_dot_product_attention(q, q, q, mask)
        assert (len(args), options or {}) == (4, {})
        args, options = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        assert (len(args), list(options)) == (3, ["attn_mask"])


def test_a_reference_kept_from_before_and_after(device: torch.device) -> None:
    """A name imported before enable() is PyTorch's; one from inside ends with it."""
    (q,) = draw(device, SHAPE)
    with sdpa.enabled():
        kept = F.scaled_dot_product_attention
        with count_calls() as calls:
            PYTORCH(q, q, q)
        assert calls.fwd == 0
        with count_calls() as calls:
            kept(q, q, q)
        assert calls.fwd == 1
    with count_calls() as calls:
        out = kept(q, q, q)
    assert (calls.fwd, sdpa.fallbacks()) == (0, {})
    assert torch.allclose(out.cpu(), PYTORCH(q.cpu(), q.cpu(), q.cpu()), atol=1e-5)


def test_threads_share_the_switch(device: torch.device) -> None:
    """What one thread enables serves all, and counts from all add up."""
    (q,) = draw(device, (1, 1, 3, 8))
    sdpa.enable()
    wrong: list[BaseException] = []
    here = q.cpu()

    def work() -> None:
        try:
            for _ in range(20):
                F.scaled_dot_product_attention(here, here, here)
                with sdpa.enabled():
                    F.scaled_dot_product_attention(q, q, q)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with count_calls() as calls:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert (calls.fwd, list(sdpa.fallbacks().values())) == (80, [80])
    assert sdpa.is_enabled()


def test_modules_are_copied_and_pickled(device: torch.device) -> None:
    """deepcopy, pickle and functional_call of a module meet nothing of ours."""
    module = Attend().to(device)
    (x,) = draw(device, SHAPE)
    want = module(x)
    with sdpa.enabled(), count_calls() as calls:
        twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
        outs = [twin(x) for twin in twins]
        weights: dict[str, Tensor] = dict(module.named_parameters())
        outs.append(torch.func.functional_call(module, weights, (x,)))
    assert calls.fwd == 3
    for out in outs:
        assert torch.allclose(out.cpu(), want.cpu(), atol=1e-5)
    assert b"orchard" not in pickle.dumps(twins[0])


def test_vmap_and_grad_of_the_function(device: torch.device) -> None:
    """torch.func.vmap and grad of a model that attends are as without us."""
    q = draw(torch.device("cpu"), (3, 2, 4, 5, 8))[0]

    def loss(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).square().sum()

    want = torch.stack([torch.func.grad(loss)(x) for x in q])
    with sdpa.enabled():
        got = torch.func.vmap(torch.func.grad(loss))(q.to(device))
    assert torch.allclose(got.cpu(), want, atol=1e-5)


@pytest.mark.skipif(TORCH < (2, 4), reason="torch.export is stable from 2.4 on")
def test_export_of_the_function(device: torch.device) -> None:
    """An exported model runs, and gives what the model gives."""
    module = Attend().to(device)
    (x,) = draw(device, SHAPE)
    want = module(x)
    with sdpa.enabled():
        program = torch.export.export(module, (x,))
        got = program.module()(x)
    assert torch.allclose(got.cpu(), want.cpu(), atol=1e-5)


@pytest.mark.parametrize("where", ["cpu", "device"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_transformer_encoder_in_evaluation(
    is_padded: bool, where: str, device: torch.device
) -> None:
    """nn.TransformerEncoder's fused path gives the same, with and without padding."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 6, 32)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = is_padded
    with torch.no_grad():
        want = encoder(x, src_key_padding_mask=padding if is_padded else None)
    place = device if where == "device" else torch.device("cpu")
    here = copy.deepcopy(encoder).to(place)
    mask = padding.to(place) if is_padded else None
    with sdpa.enabled(), torch.no_grad():
        got = here(x.to(place), src_key_padding_mask=mask)
    kept = ~padding
    assert torch.allclose(got.cpu()[kept], want[kept], atol=1e-5)


class Answers:
    """No tensor, but what PyTorch's functions ask all the same."""

    @classmethod
    def __torch_function__(cls, *_: Any) -> str:
        """Answer for a function."""
        return "answered"


def test_what_is_no_tensor_may_answer_for_the_function(device: torch.device) -> None:
    """As it may for PyTorch's own."""
    (q,) = draw(device, SHAPE)
    with sdpa.enabled():
        assert F.scaled_dot_product_attention(q, Answers(), q) == "answered"
