"""Which method sends the fewest bytes; docs/distributed.md has the same formulas."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sizes", "cheapest"]

# Gathered keys and values may always be as large, however few the queries are: below
# that a call is so short that its number of messages counts for more than memory.
_SMALL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Sizes:
    """Those of the whole call, the same on every rank."""

    ranks: int
    batch: int
    length: int
    heads_q: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    element_bytes: int

    @property
    def keys(self) -> float:
        """Numbers in k and v of one rank's share."""
        dims = self.head_dim + self.head_dim_v
        return self.batch * self.heads_kv * dims * self.length / self.ranks

    @property
    def queries(self) -> float:
        """Numbers in q and out of one rank's share."""
        dims = self.head_dim + self.head_dim_v
        return self.batch * self.heads_q * dims * self.length / self.ranks


def bytes_of(sizes: Sizes) -> dict[str, float]:
    """Return what a rank sends in forward and backward, where shares are equal.

    Sums of gradients have 4 bytes a number; those of method heads are whole when they
    cross, and have the element's.
    """
    others, size = sizes.ranks - 1, sizes.element_bytes
    sums = max(4, size)
    share = others / sizes.ranks
    return {
        "ring": others * sizes.keys * (2 * size + sums),
        "all_gather": others * sizes.keys * (size + sums),
        "heads": share * 2 * (sizes.queries + sizes.keys) * size,
    }


def cheapest(sizes: Sizes) -> str:
    """Return the method that sends the fewest bytes, of those that may be used.

    ``heads`` may be where the ranks divide both numbers of heads, ``all_gather`` where
    the gathered keys and values are no more bytes than one rank's queries and outputs,
    or than 64 MiB; ``ring`` always may.
    """
    gathered = sizes.ranks * sizes.keys * sizes.element_bytes
    allowed = max(_SMALL_BYTES, sizes.queries * sizes.element_bytes)
    may = {
        "ring": True,
        "all_gather": gathered <= allowed,
        "heads": sizes.heads_q % sizes.ranks == sizes.heads_kv % sizes.ranks == 0,
    }
    found = bytes_of(sizes)
    return min((name for name in found if may[name]), key=lambda name: found[name])
