"""A call of ``F.scaled_dot_product_attention``, and whether the kernels serve it."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import (
    _get_current_function_mode_stack,
    has_torch_function,
)
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ._arguments import dense_arguments, is_jagged, nested_like
from ._arguments.philox import NO_SEED, draw_seed
from ._errors import (
    InvalidProblemError,
    OrchardError,
    UnsupportedError,
    WrongKernelError,
)
from ._functions import run
from ._functions.dense import flash_attention, supports
from ._tracing import TORCH, is_compiling

__all__ = [
    "HAS_GQA",
    "Call",
    "attend",
    "attend_plainly",
    "call_of",
    "causal_bias_class",
    "is_causal_bias",
    "is_served",
    "note_of",
    "reason_against",
]


HAS_GQA = TORCH >= (2, 5)  # PyTorch's function takes enable_gqa
_HAS_BIASES = TORCH >= (2, 3)  # there is torch.nn.attention.bias
_DEVICES = ("mps", "metalsim")


# Each call asks, so that they are looked up once.
_count_modes = torch._C._len_torch_dispatch_stack
_count_function_modes = torch._C._len_torch_function_stack
_is_flash_enabled = torch._C._get_flash_sdp_enabled
_is_tracing = torch._C._is_tracing
_transforms = torch._C._functorch.peek_interpreter_stack


class Call(NamedTuple):
    """The arguments of ``F.scaled_dot_product_attention``, in its order."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None
    dropout_p: float
    is_causal: bool
    scale: float | None
    enable_gqa: bool


def call_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """Return the call of these arguments, given as PyTorch's function takes them."""
    return Call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def is_causal_bias(mask: object) -> bool:
    """Say whether a mask is one of ``torch.nn.attention.bias``'s two causal biases."""
    if mask is None or not _HAS_BIASES or type(mask) is Tensor:
        return False
    bias = causal_bias_class()
    return bias is not None and isinstance(mask, bias)


def causal_bias_class() -> Any:
    """Return the class of PyTorch's causal biases, None where none can be.

    Whoever has one has loaded its module, which takes long.
    """
    module = sys.modules.get("torch.nn.attention.bias")
    return None if module is None else module.CausalBias


def attend_plainly(
    query: Any = None,
    key: Any = None,
    value: Any = None,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *others: object,
    scale: float | None = None,
    enable_gqa: bool = False,
    **unknown: object,
) -> Tensor | None:
    """Run the kernels if a glance shows that they serve, else return None.

    Takes any arguments, but not while a compiler looks on.
    """
    if (
        type(query) is type(key) is type(value) is Tensor
        and (attn_mask is None or (type(attn_mask) is Tensor and not is_causal))
        and not (dropout_p or others or unknown or _count_function_modes())
        and is_served(query.device)
        and not _eager_reason(query, key, value)
    ):
        try:
            return flash_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale, enable_gqa
            )
        except (InvalidProblemError, UnsupportedError, WrongKernelError):
            pass  # who looks closer finds the reason, or the same error
    return None


@cache
def is_served(device: torch.device) -> bool:
    """Say whether the kernels run there; its name takes long to ask for."""
    return device.type in _DEVICES


def attend(call: Call) -> Tensor | str:
    """Run the kernels, or return why PyTorch's own function must serve."""
    reason = _reason_of_state(call)
    if reason:
        return reason
    # Asked first: compilers take no try, and a call that is refused draws no seed.
    options = _options(call)
    tensors = (call.query, call.key, call.value)
    if is_compiling():
        return supports(*tensors, **options)[1] or flash_attention(*tensors, **options)
    try:
        arguments = dense_arguments("supports", *tensors, **options, seed=NO_SEED)
        reason = run.reason_against("supports", arguments)
    except OrchardError as error:
        return str(error)
    if reason:
        return reason
    has_dropout = arguments.dropout_p > 0.0
    before = torch.get_rng_state() if has_dropout else None
    try:
        seed = draw_seed() if has_dropout else None
        out = run.attend("flash_attention", arguments._replace(seed=seed))[0]
    except (UnsupportedError, WrongKernelError) as error:
        # A trial on this device found it, before anything was computed.
        if before is not None:  # PyTorch's function draws in our place
            torch.set_rng_state(before)
        return str(error)
    return nested_like(call.query, out) if is_jagged(call.query) else out


def reason_against(call: Call) -> str:
    """Return why PyTorch's own function must serve, or an empty string."""
    reason = _reason_of_state(call)
    return reason or supports(call.query, call.key, call.value, **_options(call))[1]


def note_of(call: Call) -> str:
    """Return what the kernels make of arguments that PyTorch refuses or reads else."""
    mask = call.attn_mask
    if not isinstance(mask, Tensor) or is_causal_bias(mask):
        return ""
    notes = []
    if call.is_causal:
        notes.append("attn_mask and is_causal: a key must pass both")
    is_read = mask.dtype in (torch.bool, torch.float32, call.query.dtype)
    if not is_read and mask.is_floating_point():
        notes.append(f"attn_mask is copied from {mask.dtype} into torch.float32")
    return "; ".join(notes)


def _reason_of_state(call: Call) -> str:
    """Return what speaks against the kernels but for the arguments' own meaning."""
    # By name: PyTorch 2.7's compiler fails at a slice of a NamedTuple.
    query, key, value, mask = call.query, call.key, call.value, call.attn_mask
    is_eager = not is_compiling()
    if is_eager and has_torch_function(call):
        reason = _overriding_reason(call)
        if reason:
            return reason
    if query.device.type not in _DEVICES:
        return f"device {query.device.type}: PyTorch's own function serves it"
    nested = [tensor for tensor in (query, key, value) if tensor.is_nested]
    if nested and (not is_eager or not all(is_jagged(tensor) for tensor in nested)):
        return "nested tensors: the kernels take jagged ones, and those uncompiled"
    if mask is not None and is_causal_bias(mask):
        if call.is_causal:
            return "a causal bias together with is_causal=True: PyTorch's rules decide"
        if not _is_bias_of(call):
            return "a causal bias of other lengths than query and key: PyTorch's rules"
    return _eager_reason(query, key, value) if is_eager else ""


def _options(call: Call) -> dict[str, Any]:
    """Return what ``flash_attention`` takes beside the tensors."""
    options: dict[str, Any] = {
        "attn_mask": call.attn_mask,
        "dropout_p": call.dropout_p,
        "is_causal": call.is_causal,
        "scale": call.scale,
        "enable_gqa": call.enable_gqa,
    }
    if is_causal_bias(call.attn_mask):
        bias: Any = call.attn_mask
        is_lower_right = bias.variant.name == "LOWER_RIGHT"
        options["attn_mask"], options["is_causal"] = None, True
        options["causal_alignment"] = "bottom-right" if is_lower_right else "top-left"
    return options


def _is_bias_of(call: Call) -> bool:
    bias: Any = call.attn_mask
    lengths = (call.query.size(-2), call.key.size(-2))
    return bool((bias.seq_len_q, bias.seq_len_kv) == lengths)


def _overriding_reason(call: Call) -> str:
    """Say who answers for PyTorch's functions and must see this one."""
    mask = None if is_causal_bias(call.attn_mask) else call.attn_mask
    for argument in (call.query, call.key, call.value, mask, *call[4:]):
        if _overrides(argument):
            return "a subclass of Tensor or a tracer that overrides PyTorch's functions"
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    # All but the one that says where new tensors are made.
    if [mode for mode in modes if type(mode) is not DeviceContext]:
        return "inside a TorchFunctionMode"
    return ""


def _overrides(value: object) -> bool:
    function = getattr(type(value), "__torch_function__", None)
    if function is None or type(value) is Tensor or is_jagged(value):
        return False
    return function is not torch._C._disabled_torch_function_impl


def _answers_for_operators(kind: type[Tensor]) -> bool:
    """Say whether a subclass, as DTensor, may know PyTorch's operators alone."""
    is_usual = kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    return not is_usual and kind is not FakeTensor


def _eager_reason(*tensors: Tensor) -> str:
    """Return what speaks against the kernels in this state of PyTorch."""
    if _count_modes():
        modes = _get_current_dispatch_mode_stack()
        if [mode for mode in modes if type(mode) is ProxyTorchDispatchMode]:
            return "inside torch.fx.experimental.proxy_tensor.make_fx"
    for tensor in tensors:
        if type(tensor) is Tensor or is_jagged(tensor):
            continue
        if _answers_for_operators(type(tensor)):
            return "a subclass of Tensor that answers for PyTorch's operators"
    if not _is_flash_enabled():
        return "flash attention is switched off by torch.nn.attention.sdpa_kernel"
    if _is_tracing():
        return "inside torch.jit.trace"
    if _transforms() is not None:
        return "inside a torch.func transform"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return ""
