"""Keys and values of transformers' models in pages of one pool."""

from __future__ import annotations

import weakref
from functools import lru_cache
from importlib import import_module
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._arguments.checks import whole_number
from .._errors import InvalidProblemError, UnsupportedError

__all__ = ["PagePool", "Pages"]

_NAME = "transformers.PagePool"


class Pages(Tensor):
    """The keys or values of a layer where they lie: ``[batch, heads_kv, len, size]``.

    Knows its shape; only our attention can compute with it.
    """

    store: Tensor  # [pages, page_size, heads_kv, head_dim]
    table: Tensor  # int32, [batch, pages of a sequence]
    # Asking for the shape is no operation.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, store: Tensor, table: Tensor, length: int) -> Pages:
        """Make a tensor without elements of its own."""
        shape = (table.size(0), store.size(2), length, store.size(3))
        pages: Pages = Tensor._make_wrapper_subclass(
            cls, shape, dtype=store.dtype, device=store.device
        )
        pages.store, pages.table = store, table
        return pages

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, *_: Any, **__: Any
    ) -> NoReturn:
        """Refuse what would need the elements."""
        raise UnsupportedError(
            f"[{_NAME}] expected keys and values in pages to go to attention of "
            f'attn_implementation="orchard" as they are, got {function}; use that '
            "implementation, or transformers' own cache where the model changes keys "
            "after they are cached"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the shape."""
        return f"Pages({list(self.shape)}, {self.dtype}, {self.device})"

    def gathered(self) -> Tensor:
        """Return a copy of the elements."""
        rows = self.store[self.table.long()].flatten(1, 2)
        return rows[:, : self.size(2)].transpose(1, 2)


class PagePool:
    """Memory for the keys and values of a model's generations, in pages.

    >>> pool = PagePool(pages=64)
    >>> model.generate(**inputs, past_key_values=pool.cache())

    Each layer's memory is taken at its first use and never grows or moves: new keys are
    written into a page, and nothing is copied.  A generation takes a page when it grows
    into it; its pages come back when its cache is dropped or reset.
    """

    def __init__(self, pages: int, page_size: int = 128) -> None:
        """Make an empty pool.

        Args:
            pages: how many there are in each layer; a sequence of n keys takes
                n / page_size of them, rounded up.
            page_size: keys in a page, a multiple of 8.

        Raises:
            InvalidProblemError: there would be no page, or none of that size.
        """
        pages = whole_number(_NAME, "pages", pages, "count pages of page_size keys")
        page_size = whole_number(_NAME, "page_size", page_size, "count keys")
        if pages < 1 or page_size < 8 or page_size % 8:
            raise InvalidProblemError(
                f"[{_NAME}] expected at least one page of a multiple of 8 keys, got "
                f"{pages} of {page_size}; pass for instance pages=64, page_size=128"
            )
        self.page_size = page_size
        self._pages = pages
        self._free = list(range(pages))
        self._stores: dict[int, tuple[Tensor, Tensor]] = {}

    def cache(self) -> Any:
        """Return an empty cache of transformers whose pages come from here.

        For one generation at a time, of one sequence or a batch, without beams.
        """
        return _cache_class()(self)

    @property
    def free_pages(self) -> int:
        """How many pages no cache has taken."""
        return len(self._free)

    def _stores_of(self, layer: int, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return where a layer's keys and values lie."""
        room = (self._pages, self.page_size)
        if layer not in self._stores:
            with torch.inference_mode(False):  # written in any mode later
                key, value = (
                    torch.empty(
                        *room, s.size(1), s.size(3), dtype=s.dtype, device=s.device
                    )
                    for s in states
                )
            self._stores[layer] = key, value
        for store, s in zip(self._stores[layer], states):
            is_alike = store.dtype == s.dtype and store.device == s.device
            if not is_alike or store.shape[2:] != (s.size(1), s.size(3)):
                raise InvalidProblemError(
                    f"[{_NAME}] expected in layer {layer} heads of shape "
                    f"{list(store.shape[2:])} in {store.dtype} on {store.device}, as "
                    f"before, got {[s.size(1), s.size(3)]} in {s.dtype} on {s.device}; "
                    "make one pool for each model"
                )
        return self._stores[layer]

    def _extend(self, rows: list[list[int]], length: int) -> bool:
        """Give each row pages for so many keys; say whether that took any."""
        lacking = -(-length // self.page_size) - len(rows[0])
        if lacking * len(rows) > len(self._free):
            raise InvalidProblemError(
                f"[{_NAME}] expected at most {len(self._free)} more pages to be "
                f"needed, got {lacking} more for each of {len(rows)} sequences of "
                f"{length} keys; make the pool larger, or drop other caches"
            )
        for row in rows:
            row.extend(self._free.pop() for _ in range(lacking))
        return lacking > 0

    def _give_back(self, rows: list[list[int]]) -> None:
        for row in rows:
            self._free.extend(row)
        rows.clear()


class _PagedCache:
    """What transformers asks of a cache, in all its releases."""

    is_compileable = False
    is_croppable = False

    def __init__(self, pool: PagePool) -> None:
        """Take nothing yet."""
        if isinstance(self, torch.nn.Module):  # before 4.54
            torch.nn.Module.__init__(self)
        # Not Cache's own, whose arguments differ by release.
        self.layers: list[Any] = []
        self._pool = pool
        self._rows: list[list[int]] = []  # the pages of each sequence
        self._lengths: dict[int, int] = {}
        self._table: Tensor | None = None
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # the latest
        weakref.finalize(self, pool._give_back, self._rows)

    def __len__(self) -> int:
        """Return how many layers there are so far."""
        return len(self._lengths)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, ...]:
        """Write new keys and values; return all: the first as given, later as pages."""
        states = key_states, value_states
        if torch.is_grad_enabled() and any(s.requires_grad for s in states):
            raise UnsupportedError(
                f"[{_NAME}] expected keys and values without gradients, got some that "
                "require one; call the model under torch.no_grad()"
            )
        stores = self._pool._stores_of(layer_idx, states)
        start = self._lengths.get(layer_idx, 0)
        end = start + key_states.size(2)
        table, places = self._room(key_states.size(0), start, end, key_states.device)
        for store, s in zip(stores, states):
            store[places] = s.transpose(1, 2)
        self._lengths[layer_idx] = end
        if start == 0:
            return states
        return tuple(Pages(store, table, end) for store in stores)

    def _room(
        self, batch: int, start: int, end: int, device: torch.device
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the table and the places of new keys, one for all layers of a step."""
        if not self._rows:
            self._rows.extend([] for _ in range(batch))
        if len(self._rows) != batch:
            raise InvalidProblemError(
                f"[{_NAME}] expected a batch of {len(self._rows)}, as before, got "
                f"{batch}; make one cache for each generation"
            )
        table = self._table
        if self._pool._extend(self._rows, end) or table is None:
            table = torch.tensor(self._rows, dtype=torch.int32).to(device)
            self._table = table
        places = self._places.get((start, end))
        if places is None:
            keys = torch.arange(start, end, device=device)
            size = self._pool.page_size
            numbers = keys.div(size, rounding_mode="floor")
            places = table.long()[:, numbers], keys % size
            self._places = {(start, end): places}
        return table, places

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many keys a layer has."""
        return self._lengths.get(layer_idx or 0, 0)

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """Return the keys that a mask must show, and where they begin."""
        if isinstance(query_length, Tensor):  # positions, before transformers 5
            query_length = query_length.shape[0]
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_max_cache_shape(self, *_: Any, **__: Any) -> None:
        """Return that masks grow with the cache."""

    def get_max_length(self, *_: Any, **__: Any) -> int:
        """Return the same for transformers 5."""
        return -1

    def reset(self) -> None:
        """Forget all keys and give the pages back."""
        self._pool._give_back(self._rows)
        self._lengths.clear()
        self._places.clear()
        self._table = None

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse what would move keys."""
        raise UnsupportedError(
            f"[{_NAME}] expected a generation that only adds keys, got one that drops, "
            "reorders or copies them (as beams and assistants do); use transformers' "
            "own cache"
        )

    crop = reorder_cache = batch_repeat_interleave = batch_select_indices = _refuse
    batch_split = __deepcopy__ = _refuse


@lru_cache(maxsize=1)
def _cache_class() -> Any:
    base = import_module("transformers.cache_utils").Cache
    return type("PagedCache", (_PagedCache, base), {"__doc__": _PagedCache.__doc__})
