"""From padded batches to packed sequences and back, as ``flash_attn.bert_padding``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .._arguments.checks import check_is_tensor, count_of
from .._errors import InvalidProblemError
from .._tracing import is_compiling

__all__ = [
    "index_first_axis",
    "index_put_first_axis",
    "pad_input",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
]

_MOST_ROWS = 2**62


def index_first_axis(input: Tensor, indices: Tensor) -> Tensor:  # noqa: A002 - Dao's
    """Return ``input[indices]``: some rows of ``[rows, ...]``; differentiable.

    Args:
        input: ``[rows, ...]``.
        indices: ``[some]`` int64.

    Returns:
        ``[some, ...]``.

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    name = "index_first_axis"
    _check_dense(name, input=input, indices=indices)
    if not input.dim():
        raise InvalidProblemError(
            f"[{name}] expected input of shape [rows, ...], got []; add a dimension"
        )
    _check_rows(name, indices, None, input.size(0))
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

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    name, advice = "index_put_first_axis", "say how many rows the result has"
    first_axis_dim = count_of(name, "first_axis_dim", first_axis_dim, advice)
    _check_dense(name, values=values, indices=indices)
    _check_places(name, "values", values, indices, first_axis_dim)
    zeros = values.new_zeros(first_axis_dim, *values.shape[1:])
    # Not index_copy, which MPS lacks before PyTorch 2.6.
    return zeros.index_put((indices.long(),), values)


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

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    name = "unpad_input"
    masks = {"attention_mask": attention_mask}
    if unused_mask is not None:
        masks["unused_mask"] = unused_mask
    _check_masks(name, hidden_states, **masks)
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(-1, dtype=torch.int32)
    used = attention_mask.sum(-1, dtype=torch.int32)
    indices = torch.nonzero(kept.flatten()).flatten()
    cu_seqlens = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    # item, for old compilers
    longest = int(lengths.max().item()) if lengths.numel() else 0
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

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    given = attention_mask_in_length
    name = "unpad_input_for_concatenated_sequences"
    _check_masks(name, hidden_states, attention_mask_in_length=given)
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

    Raises:
        InvalidProblemError: the arguments do not fit together.
    """
    name = "pad_input"
    _check_dense(name, hidden_states=hidden_states, indices=indices)
    batch = count_of(name, "batch", batch, "pass the number of sequences")
    seqlen = count_of(name, "seqlen", seqlen, "pass the length to pad to")
    rows = -1 if min(batch, seqlen) < 0 else batch * seqlen
    _check_places(name, "hidden_states", hidden_states, indices, rows)
    padded = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.view(batch, seqlen, *hidden_states.shape[1:])


def _check_dense(name: str, **tensors: Tensor) -> None:
    for label, tensor in tensors.items():
        check_is_tensor(name, label, tensor)


def _check_masks(name: str, hidden_states: Tensor, **masks: Tensor) -> None:
    """Check that each mask has a whole number for each token."""
    _check_dense(name, hidden_states=hidden_states, **masks)
    if is_compiling():  # PyTorch's own checks hold there
        return
    shape = hidden_states.shape[:2]
    for label, mask in masks.items():
        is_count = not (mask.is_floating_point() or mask.is_complex() or mask.is_meta)
        is_beside = mask.device == hidden_states.device
        if len(shape) == 2 and mask.shape == shape and is_count and is_beside:
            continue
        raise InvalidProblemError(
            f"[{name}] expected {label} of whole numbers or bool, [batch, len] as the "
            f"first two of hidden_states {list(hidden_states.shape)} on "
            f"{hidden_states.device}, got {mask.dtype} of shape {list(mask.shape)} on "
            f"{mask.device}; cast, move or slice it"
        )


def _check_places(
    name: str, label: str, values: Tensor, indices: Tensor, rows: int
) -> None:
    """Check that each of some rows has a place among so many."""
    if is_compiling():
        return
    if not values.dim() or rows < 0 or rows > _MOST_ROWS:
        raise InvalidProblemError(
            f"[{name}] expected {label} of shape [some, ...] to put among 0 to 2**62 "
            f"rows, got shape {list(values.shape)} and {rows} rows; pass sizes that "
            "fit them"
        )
    _check_rows(name, indices, values.size(0), rows)


def _check_rows(name: str, indices: Tensor, count: int | None, rows: int) -> None:
    """Check numbers of rows, which only the CPU shows."""
    if is_compiling():
        return
    is_whole = indices.dtype in (torch.int32, torch.int64)
    if indices.dim() != 1 or not is_whole or count not in (None, indices.size(0)):
        size = "some" if count is None else count
        raise InvalidProblemError(
            f"[{name}] expected indices of shape [{size}], int64, got {indices.dtype} "
            f"of shape {list(indices.shape)}; pass those that unpad_input returned"
        )
    if indices.device.type != "cpu" or not indices.numel():
        return
    least, most = (int(edge) for edge in torch.aminmax(indices))
    if least < 0 or most >= rows:
        raise InvalidProblemError(
            f"[{name}] expected indices from 0 to {rows - 1}, got {least} to {most}; "
            "pass those that unpad_input returned for this batch"
        )
