"""The sequence that attention calls of other code share, while a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._errors import OrchardError
from ._layout import Layout
from .attention import Method, context_parallel_attention

__all__ = ["Context", "context_parallel", "current"]


@dataclass(frozen=True)
class Context:
    """How calls inside the block are spread over ranks."""

    group: Any
    layout: Layout
    method: Method
    length: int | None
    check: bool

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = True,
        **options: Any,
    ) -> Tensor:
        """Attend to all ranks' rows; as PyTorch's function is asked to."""
        del enable_gqa  # a smaller number of key heads says as much
        out: Tensor = context_parallel_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale,
            group=self.group, layout=self.layout, method=self.method,
            length=self.length, check=self.check, **options,
        )  # fmt: skip
        return out


# One for all threads, as the function that it changes is: autograd recomputes what is
# checkpointed in threads of its own.  Read as it is, because each call of that looks.
current: Context | None = None


@contextmanager
def context_parallel(
    group: Any = None,
    *,
    layout: Layout = "zigzag",
    method: Method = "auto",
    length: int | None = None,
    check: bool = True,
) -> Iterator[None]:
    """Spread the attention of other code over ranks, inside a ``with`` block.

    ``F.scaled_dot_product_attention`` (as by `orchard_ops.sdpa.enabled`, on any device)
    and transformers' attention "orchard" become `context_parallel_attention`: their
    queries, keys and values are this rank's rows.  All calls do, in all threads, so
    that code which attends to something else, as cross-attention does, belongs outside.
    Backward belongs inside where activations are checkpointed, because it calls them
    again.

    Args:
        group: as for `context_parallel_attention`.
        layout: as there.
        method: as there.
        length: as there; by default what the ranks of each call have together.
        check: as there.

    Raises:
        OrchardError: there is such a block already.
    """
    from .. import sdpa  # which asks for the current context

    global current
    if current is not None:
        raise OrchardError(
            "[distributed.context_parallel] expected no block inside another, got one; "
            "end the outer one first"
        )
    current = Context(group, layout, method, length, check)
    try:
        with sdpa.enabled():
            yield
    finally:
        current = None
