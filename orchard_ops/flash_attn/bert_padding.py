"""From padded batches to packed sequences and back, as ``flash_attn.bert_padding``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .._arguments.checks import check_is_tensor, whole_number

__all__ = [
    "index_first_axis",
    "index_put_first_axis",
    "pad_input",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
]


def index_first_axis(input: Tensor, indices: Tensor) -> Tensor:  # noqa: A002 - Dao's
    """Return ``input[indices]``: some rows of ``[rows, ...]``; differentiable.

    Args:
        input: ``[rows, ...]``.
        indices: ``[some]`` int64.

    Returns:
        ``[some, ...]``.
    """
    _check_dense("index_first_axis", input=input, indices=indices)
    return input.index_select(0, indices)


def index_put_first_axis(
    values: Tensor, indices: Tensor, first_axis_dim: int
) -> Tensor:
    """Put rows at their places among zeros: what `index_first_axis` undoes.

    Args:
        values: ``[some, ...]``.
        indices: ``[some]`` int64, each row's place, no two the same.
        first_axis_dim: how many rows the result has.

    Returns:
        ``[first_axis_dim, ...]``, differentiable in values.
    """
    name, advice = "index_put_first_axis", "say how many rows the result has"
    first_axis_dim = whole_number(name, "first_axis_dim", first_axis_dim, advice)
    _check_dense(name, values=values, indices=indices)
    zeros = values.new_zeros(first_axis_dim, *values.shape[1:])
    # Not index_copy, which MPS lacks before PyTorch 2.6.
    return zeros.index_put((indices,), values)


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Pack the tokens that a mask keeps, one sequence after the other.

    Reads the longest length from the device, so it waits for it.

    Args:
        hidden_states: ``[batch, len, ...]``.
        attention_mask: ``[batch, len]`` bool or int, 1 for a token to keep.
        unused_mask: ``[batch, len]`` likewise: tokens that are kept in memory too, but
            belong to no sequence's used part.

    Returns:
        The tokens ``[total, ...]``; their places in the flattened batch ``[total]``
        int64; where sequences begin ``[batch + 1]`` int32, for ``cu_seqlens``; the
        longest length; how many of each sequence's tokens attention_mask itself keeps
        ``[batch]`` int32.
    """
    _check_dense(
        "unpad_input", hidden_states=hidden_states, attention_mask=attention_mask
    )
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(-1, dtype=torch.int32)
    used = attention_mask.sum(-1, dtype=torch.int32)
    indices = torch.nonzero(kept.flatten()).flatten()
    cu_seqlens = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max().item())  # item, for old compilers
    tokens = index_first_axis(hidden_states.flatten(0, 1), indices)
    return tokens, indices, cu_seqlens, longest, used


def unpad_input_for_concatenated_sequences(
    hidden_states: Tensor, attention_mask_in_length: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Pack the tokens of rows that hold several sequences each, one after the other.

    Reads the longest length from the device, so it waits for it.

    Args:
        hidden_states: ``[batch, len, ...]``.
        attention_mask_in_length: ``[batch, len]`` int: the lengths of each row's
            sequences, in their order, and zeros; what they leave of a row is padding.

    Returns:
        The tokens ``[total, ...]``; their places in the flattened batch ``[total]``
        int64, for `pad_input`; where sequences begin ``[sequences + 1]`` int32, for
        ``cu_seqlens``; the longest length.
    """
    _check_dense(
        "unpad_input_for_concatenated_sequences",
        hidden_states=hidden_states,
        attention_mask_in_length=attention_mask_in_length,
    )
    given = attention_mask_in_length
    places = torch.arange(given.size(1), device=given.device)
    kept = places < given.sum(-1, keepdim=True)
    indices = torch.nonzero(kept.flatten()).flatten()
    lengths = given[given != 0]
    cu_seqlens = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max().item()) if lengths.numel() else 0
    tokens = index_first_axis(hidden_states.flatten(0, 1), indices)
    return tokens, indices, cu_seqlens, longest


def pad_input(
    hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int
) -> Tensor:
    """Put packed tokens back into a padded batch, zeros in between.

    Args:
        hidden_states: ``[total, ...]``.
        indices: ``[total]`` int64, from `unpad_input`.
        batch: number of sequences.
        seqlen: length to which they are padded.

    Returns:
        ``[batch, seqlen, ...]``.
    """
    _check_dense("pad_input", hidden_states=hidden_states, indices=indices)
    batch = whole_number("pad_input", "batch", batch, "pass the number of sequences")
    advice = "pass the length to pad to"
    seqlen = whole_number("pad_input", "seqlen", seqlen, advice)
    padded = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.view(batch, seqlen, *hidden_states.shape[1:])


def _check_dense(name: str, **tensors: Tensor) -> None:
    for label, tensor in tensors.items():
        check_is_tensor(name, label, tensor)
