"""Layers of transformers inside `orchard_ops.distributed.context_parallel`."""

from __future__ import annotations

from functools import wraps
from typing import Any, Callable

from torch import Tensor, nn

from .._errors import UnsupportedError
from ..distributed import _context

__all__ = ["attend", "with_rows"]


def attend(
    context: _context.Context,
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    given: dict[str, Tensor | None],
    is_causal: bool | None,
    sliding_window: int | None,
    **options: Any,
) -> Tensor:
    """Attend to all ranks' rows.

    Args:
        context: of the block.
        module: the attention layer; its is_causal counts where the argument is None.
        tensors: query, key and value.
        given: what is made of positions by a model that knows this rank's rows only,
            and must be None, by its name.
        is_causal: whether a row sees those up to its own only.
        sliding_window: how many of these it sees.
        options: those of `context_parallel_attention`.
    """
    for name, tensor in given.items():
        if tensor is not None:
            raise _refused(f"no {name}", "one", "its columns would be this rank's rows")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    window = None
    if sliding_window is not None:
        window = (sliding_window - 1, 0 if is_causal else sliding_window - 1)
    out = context.attend(*tensors, is_causal=is_causal, window=window, **options)
    return out.transpose(1, 2).contiguous()


def with_rows(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    """Let one of transformers' mask functions make none inside the block.

    Layers say whether they are causal and how far they see; the positions of rows,
    which a mask would be made of, differ between ranks.
    """

    @wraps(make_mask)
    def make(*arguments: Any, **options: Any) -> Any:
        if _context.current is None:
            return make_mask(*arguments, **options)
        if options.get("attention_mask") is not None:
            raise _refused("no attention_mask", "one", "leave it out: pad nothing")
        if getattr(options.get("config"), "attention_chunk_size", None):
            raise _refused("a model without chunked attention", "one with it", "")
        return None

    return make


def _refused(expected: str, got: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"[transformers.attention] expected {expected} inside "
        f"distributed.context_parallel, got {got}; {why}".rstrip("; ")
    )
