"""The inputs of a case, drawn on the CPU from a seed that its name gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import philox
import torch
from cases import Case, Mask
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """A case's tensors, on the CPU in its dtype; see ``flash_attention``."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    attn_mask: Tensor | None = None
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    grad_lse: Tensor | None = None
    # The weights that dropout keeps, [batch, heads_q, len_q, len_kv]; for packed
    # sequences one such mask for each.
    keep: tuple[Tensor, ...] = ()

    @property
    def core(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tensors that every problem has."""
        return self.q, self.k, self.v, self.grad_out


def make_inputs(case: Case, draw_index: int = 0) -> Inputs:
    """Draw inputs, seeded by the case's name and the draw's number.

    Dropout of draw 0 is that of the first call after
    ``torch.manual_seed(case.manual_seed)``.
    """
    seed = case.manual_seed + draw_index
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, length: int, size: int) -> Tensor:
        if case.sequences:
            shape = [length, heads, size]
        else:
            shape = {
                2: [length, size],
                3: [case.batch, length, size],
                4: [case.batch, heads, length, size],
                5: [2, case.batch // 2, heads, length, size],
            }[case.ndim]
        return torch.randn(shape, generator=generator).to(case.dtype)

    len_q, len_kv = case.len_q, case.len_kv
    if case.sequences:
        len_q, len_kv = (sum(each) + case.rest for each in zip(*case.sequences))
    inputs = Inputs(
        q=draw(case.heads_q, len_q, case.head_dim),
        k=draw(case.heads_kv, len_kv, case.head_dim),
        v=draw(case.heads_kv, len_kv, case.value_dim),
        grad_out=draw(case.heads_q, len_q, case.value_dim),
        attn_mask=_draw_mask(case, case.mask, generator) if case.mask else None,
        alibi_slopes=_draw_slopes(case, generator) if case.alibi else None,
        sinks=_draw_sinks(case, generator) if case.sinks else None,
        keep=_keep_masks(case, philox.draw_seed(seed)) if case.dropout else (),
    )
    if not case.grad_lse:
        return inputs
    rows = [*inputs.q.shape[:-1]]
    shape = [case.heads_q, len_q] if case.sequences else rows
    return replace(inputs, grad_lse=torch.randn(shape, generator=generator))


def _draw_mask(case: Case, mask: Mask, generator: torch.Generator) -> Tensor:
    """Return a mask of the rank that the case asks for; below four without heads."""
    sizes = dict(b=case.batch, h=case.heads_q, q=case.len_q, k=case.len_kv)
    shape = [size if dim in mask.dims else 1 for dim, size in sizes.items()]
    is_hidden = _hidden(mask.hidden, shape, generator)
    if mask.kind == "bool":
        values = ~is_hidden
    else:
        dtype = case.dtype if mask.kind == "float" else getattr(torch, mask.kind)
        least = torch.finfo(dtype).min if mask.hidden == "lowest" else -torch.inf
        values = torch.randn(shape, generator=generator).to(dtype)
        values = values.masked_fill(is_hidden, least)
    if mask.layout == "expanded":  # as it lies in memory: see harness.lay_out
        values = values[:, :1, :1].expand(shape)
    if case.ndim < 4:
        values = values.squeeze(1)
    if case.ndim == 5:
        batch = (2, case.batch // 2) if "b" in mask.dims else (1, 1)
        values = values.reshape(*batch, *values.shape[1:])
    return values.reshape(values.shape[values.dim() - mask.rank :])


def _hidden(pattern: str, shape: list[int], generator: torch.Generator) -> Tensor:
    """Return True where a mask hides a key from a query."""
    rows = torch.arange(shape[2]).unsqueeze(1).expand(shape)
    columns = torch.arange(shape[3]).expand(shape)
    patterns = {
        "none": rows < 0,
        "all": rows >= 0,
        "random": torch.rand(shape, generator=generator) < 0.3,
        "rows": rows % 5 == 2,
        "columns": columns % 7 >= 4,
        "tiles": (rows // 32 + columns // 32) % 2 == 1,
        "lowest": (rows % 5 == 2) | (columns % 7 >= 4),
    }
    return patterns[pattern]


def _draw_slopes(case: Case, generator: torch.Generator) -> Tensor:
    batch = len(case.sequences) or case.batch
    shape = [batch, case.heads_q][case.alibi == "heads" :]
    return 0.3 * torch.rand(shape, generator=generator)


def _draw_sinks(case: Case, generator: torch.Generator) -> Tensor:
    sinks = torch.randn(case.heads_q, generator=generator)
    factor = {"normal": 1.0, "large": 60.0, "-inf": 1.0}[case.sinks]
    if case.sinks == "-inf":
        sinks[::2] = -torch.inf
    return factor * sinks


def _keep_masks(case: Case, seed: int) -> tuple[Tensor, ...]:
    heads = case.heads_q
    if not case.sequences:
        shape = (case.batch, heads, case.len_q, case.len_kv)
        return (philox.keep_mask(seed, case.dropout, shape),)
    return tuple(
        philox.keep_mask(seed, case.dropout, (1, heads, *lengths), index)
        for index, lengths in enumerate(case.sequences)
    )
