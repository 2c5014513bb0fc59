"""``attn_implementation="orchard"`` for models of transformers 4.48 and newer.

>>> from orchard_ops.integrations import transformers
>>> transformers.register()
>>> model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="orchard")
"""

from __future__ import annotations

import sys
from functools import partial, wraps
from importlib import import_module
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .._errors import UnsupportedError
from .._functions.dense import flash_attention
from ..distributed import _context
from . import _spread
from ._pages import PagePool, Pages
from ._steps import step, with_span

__all__ = ["PagePool", "attention", "register"]

_names: set[str] = set()  # registered
_REFUSED = {
    "cache": "continuous batching's paged cache",
    "head_mask": "a head_mask",
    "output_attentions": "output_attentions=True",
}


def register(name: str = "orchard") -> None:
    """Offer the kernels to transformers as an attention implementation.

    Reaches the models that look their attention up in transformers' registry.  Some do
    not: those with a table of their own raise UnsupportedError when they are built or
    run (BERT, RoBERTa and ModernBERT before transformers 5), and those that never ask
    go on as they would (T5 before transformers 5).

    Args:
        name: what to pass as ``attn_implementation``.

    Raises:
        ImportError: there is no transformers.
        UnsupportedError: it is older than its attention registry.
    """
    modeling = import_module("transformers.modeling_utils")
    functions = getattr(modeling, "ALL_ATTENTION_FUNCTIONS", None)
    if functions is None:
        version = import_module("transformers").__version__
        raise UnsupportedError(
            "[transformers.register] expected transformers 4.48 or newer, which has an "
            f"attention registry, found {version}; upgrade it"
        )
    masking = _masking()
    function = attention if masking else partial(attention, is_mask_complete=False)
    # A dictionary at first; later one whose register() reaches its copies.
    getattr(functions, "register", functions.__setitem__)(name, function)
    if masking:
        # Before PyTorch 2.5 it would fill rows without keys, which PyTorch's function
        # needs and the kernels do not, and fail where the mask is one for all.
        mask_function = with_span(partial(masking.sdpa_mask, allow_torch_fix=False))
        mask_function = _spread.with_rows(mask_function)
        masking.ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask_function)
    if not _names:
        _watch_tables(modeling.PreTrainedModel)
    _names.add(name)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    *,
    is_mask_complete: bool = True,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks its registered functions to.

    Args:
        module: the attention layer; its is_causal counts where the argument is None.
        query: ``[batch, heads, len_q, head_dim]``.
        key: ``[batch, heads_kv, len_kv, head_dim]``.
        value: ``[batch, heads_kv, len_kv, head_dim_v]``.
        attention_mask: broadcasts to ``[batch, heads, len_q, len_kv]``; bool, True
            where a query attends, or float, added.  Says everything that masks,
            sliding windows included; None is causal or full attention.
        dropout: probability of dropping a weight.
        scaling: factor on the scores; None is the layer's own, or 1/sqrt(head_dim).
        is_causal: whether a None mask means causal.
        position_bias: added to the scores, differentiable.
        softcap: bound on the scores.
        s_aux: attention sinks, ``[heads]``.
        is_mask_complete: False before transformers 4.53, where a layer may leave
            causality to the function beside a mask, or with keys from a cache.
        others: what a layer tells other implementations; ignored, but for what would
            change the result.

    Returns:
        ``[batch, len_q, heads, head_dim_v]``, and None for the weights.

    Raises:
        UnsupportedError: asked for weights, a head_mask, or continuous batching.
    """
    for name, what in _REFUSED.items():
        given = others.get(name)
        if given is not None and given is not False:
            raise UnsupportedError(
                f"[transformers.attention] {what} is not offered, because the weights "
                'are never stored; use attn_implementation="eager"'
            )
    scale = _scale(module, query, scaling)
    context = _context.current
    if context is not None:
        spread = _spread.attend(
            context, module, (query, key, value),
            {"attention_mask": attention_mask, "position_bias": position_bias},
            is_causal, others.get("sliding_window"), dropout_p=dropout, scale=scale,
            softcap=softcap or 0.0, sinks=s_aux,
        )  # fmt: skip
        return spread, None
    if position_bias is None and dropout == 0.0:
        out = step(query, key, value, attention_mask, scale, softcap or 0.0, s_aux)
        if out is not None:
            return out, None
    if isinstance(key, Pages) and isinstance(value, Pages):
        key, value = key.gathered(), value.gathered()
        return attention(
            module, query, key, value, attention_mask, dropout, scaling, is_causal,
            position_bias, softcap, s_aux, is_mask_complete=is_mask_complete,
        )  # fmt: skip
    mask, causal = _mask(module, query, key, attention_mask, is_causal)
    if not is_mask_complete:
        causal = causal or _lacks_causality(module, query, mask)
    out = flash_attention(
        query,
        key,
        value,
        _with_bias(mask, position_bias, key),
        dropout,
        causal,
        scale,
        causal_alignment="top-left" if is_mask_complete else "bottom-right",
        softcap=softcap or 0.0,
        sinks=s_aux,
    )
    return out.transpose(1, 2).contiguous(), None


class _Table(dict[str, Any]):
    """A model's own table of attention implementations, which says what it lacks."""

    owner = ""

    def __missing__(self, name: str) -> NoReturn:
        """Say why there is nothing by our name."""
        if name not in _names:
            raise KeyError(name)
        version = import_module("transformers").__version__
        raise UnsupportedError(
            f"[transformers] expected a model that looks {name!r} up in transformers' "
            f"attention registry, got one of {self.owner} (transformers {version}), "
            'which has a table of its own; use attn_implementation="sdpa" together '
            "with orchard_ops.sdpa.enable(), or a transformers whose model asks"
        )


def _watch_tables(model: Any) -> None:
    """Give models that ask for our name tables that explain themselves."""
    begin = model.__init__

    @wraps(begin)
    def begin_watched(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        name = getattr(self.config, "_attn_implementation", None)
        if isinstance(name, str) and name in _names:
            _explain_tables(type(self), name)

    model.__init__ = begin_watched


def _explain_tables(model: type, name: str) -> None:
    modules = {base.__module__ for base in model.__mro__}
    for module in modules:
        names = vars(sys.modules[module]) if module.startswith("transformers.") else {}
        for key, table in list(names.items()):
            if type(table) is dict and "eager" in table and name not in table:
                names[key] = _Table(table)
                names[key].owner = module


def _masking() -> Any:
    """Return transformers' module of mask functions, which came with 4.53, or None."""
    try:
        return import_module("transformers.masking_utils")
    except ModuleNotFoundError:
        return None


def _mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    is_causal: bool | None,
) -> tuple[Tensor | None, bool]:
    """Return the mask, and whether the kernels must see to causality themselves."""
    if mask is None:
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        return None, query.size(2) > 1 and bool(is_causal)
    mask = mask[..., : key.size(2)]
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        mask = mask.float()
    return mask, False


def _lacks_causality(module: nn.Module, query: Tensor, mask: Tensor | None) -> bool:
    """Say whether a causal layer's mask is one row of padding: old GPT-2's is."""
    is_row = mask is not None and mask.size(-2) == 1 and query.size(2) > 1
    is_self_attention = not getattr(module, "is_cross_attention", False)
    return is_row and is_self_attention and bool(getattr(module, "is_causal", False))


def _with_bias(mask: Tensor | None, bias: Tensor | None, key: Tensor) -> Tensor | None:
    """Return mask and bias as one."""
    if bias is None:
        return mask
    bias = bias[..., : key.size(2)]
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, float("-inf"))
    return bias + mask


def _scale(module: nn.Module, query: Tensor, scaling: float | None) -> float:
    """Return the factor that the layer asks for, by argument or, as old GPT-2, not."""
    if scaling is not None:
        return scaling
    is_scaled = getattr(module, "scale_attn_weights", True)
    scale = float(query.size(-1)) ** -0.5 if is_scaled else 1.0
    if getattr(module, "scale_attn_by_inverse_layer_idx", False):
        scale /= getattr(module, "layer_idx", 0) + 1
    return scale
