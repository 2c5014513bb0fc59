"""The operators of the library _C, torch.ops.orchard_ops.

Written by tools/stubs.py from their schemas.
"""

from collections.abc import Sequence
from typing import overload

from torch import Tensor

@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
) -> Tensor: ...
def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    stats: Tensor,
    output_mask: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    return_lse: bool = False,
    part: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: ...
def backward_scratch() -> int: ...
def call_counts() -> tuple[int, int, int, int]: ...
def chosen_scratch(like: Tensor, dtype: str, head_dim: int) -> int: ...
def chosen_tile(like: Tensor, kernel: str, dtype: str, head_dim: int) -> list[int]: ...
def decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor,
    block_table: Tensor | None,
    cache_batch_idx: Tensor | None,
    cache_leftpad: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    scale: float | None,
    softcap: float,
    window_left: int,
    window_right: int,
    num_splits: int,
) -> tuple[Tensor, Tensor]: ...
def describe_storage(tensor: Tensor) -> tuple[str, int, int, str]: ...
def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    return_lse: bool = False,
    part: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def gpu_class(like: Tensor) -> str: ...
def gpu_seconds(like: Tensor) -> float: ...
def keep_choices(like: Tensor, choices: str) -> None: ...
def keep_mask(
    seed: Tensor,
    dropout_p: float,
    shape: Sequence[int],
    first_batch: int = 0,
    part: Sequence[int] | None = None,
) -> Tensor: ...
def kept_choices(like: Tensor) -> str: ...
def kernel_tensors() -> tuple[list[str], list[str], list[str]]: ...
def longest_launch() -> float: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def reason_size(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    return_lse: bool = False,
    part: Sequence[int] | None = None,
) -> Tensor: ...
def record_into(folder: str) -> None: ...
def reset_call_counts() -> None: ...
def set_backward_scratch(max_bytes: int) -> None: ...
def set_longest_launch(seconds: float) -> None: ...
def set_versions(versions: str) -> None: ...
def softmax_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    return_lse: bool = False,
    part: Sequence[int] | None = None,
) -> Tensor: ...
def supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = True,
    is_bottom_right: bool = False,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int = 0,
    max_seqlen_k: int = 0,
    return_lse: bool = False,
    part: Sequence[int] | None = None,
) -> str: ...
def synchronize() -> None: ...
def thread_limits(like: Tensor) -> tuple[list[str], list[int], list[int]]: ...
def trials() -> tuple[list[str], list[str], list[float], list[float]]: ...
def try_choices(like: Tensor, choices: str | None) -> None: ...
def verification_costs() -> tuple[int, int, float, float]: ...
