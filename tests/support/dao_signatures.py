"""The signatures of Dao's flash_attn, as of its versions 2.6.3 to 2.8.3.

Data alone: name → parameters in order, each with its default, or REQUIRED.
"""

from __future__ import annotations

REQUIRED = "required"

# The arguments that end most of them.
_OPTIONS = [
    ("dropout_p", 0.0),
    ("softmax_scale", None),
    ("causal", False),
    ("window_size", (-1, -1)),
    ("softcap", 0.0),
    ("alibi_slopes", None),
    ("deterministic", False),
    ("return_attn_probs", False),
]
_LENGTHS = [
    ("cu_seqlens_q", REQUIRED),
    ("cu_seqlens_k", REQUIRED),
    ("max_seqlen_q", REQUIRED),
    ("max_seqlen_k", REQUIRED),
]

SIGNATURES: dict[str, list[tuple[str, object]]] = {
    "flash_attn_func": [
        ("q", REQUIRED),
        ("k", REQUIRED),
        ("v", REQUIRED),
        *_OPTIONS,
    ],
    "flash_attn_kvpacked_func": [("q", REQUIRED), ("kv", REQUIRED), *_OPTIONS],
    "flash_attn_qkvpacked_func": [("qkv", REQUIRED), *_OPTIONS],
    "flash_attn_varlen_func": [
        ("q", REQUIRED),
        ("k", REQUIRED),
        ("v", REQUIRED),
        *_LENGTHS,
        *_OPTIONS,
        ("block_table", None),
    ],
    "flash_attn_varlen_kvpacked_func": [
        ("q", REQUIRED),
        ("kv", REQUIRED),
        *_LENGTHS,
        *_OPTIONS,
    ],
    "flash_attn_varlen_qkvpacked_func": [
        ("qkv", REQUIRED),
        ("cu_seqlens", REQUIRED),
        ("max_seqlen", REQUIRED),
        *_OPTIONS,
    ],
    "flash_attn_with_kvcache": [
        ("q", REQUIRED),
        ("k_cache", REQUIRED),
        ("v_cache", REQUIRED),
        ("k", None),
        ("v", None),
        ("rotary_cos", None),
        ("rotary_sin", None),
        ("cache_seqlens", None),
        ("cache_batch_idx", None),
        ("cache_leftpad", None),
        ("block_table", None),
        ("softmax_scale", None),
        ("causal", False),
        ("window_size", (-1, -1)),
        ("softcap", 0.0),
        ("rotary_interleaved", True),
        ("alibi_slopes", None),
        ("num_splits", 0),
        ("return_softmax_lse", False),
    ],
}

# What ours take besides, by keyword alone.
OURS: dict[str, list[tuple[str, object]]] = {
    "flash_attn_func": [("s_aux", None)],
    "flash_attn_varlen_func": [("s_aux", None)],
    "flash_attn_with_kvcache": [("s_aux", None)],
}

# flash_attn.bert_padding, as of 2.7.0.
PADDING: dict[str, list[tuple[str, object]]] = {
    "unpad_input": [
        ("hidden_states", REQUIRED),
        ("attention_mask", REQUIRED),
        ("unused_mask", None),
    ],
    "pad_input": [
        ("hidden_states", REQUIRED),
        ("indices", REQUIRED),
        ("batch", REQUIRED),
        ("seqlen", REQUIRED),
    ],
    "unpad_input_for_concatenated_sequences": [
        ("hidden_states", REQUIRED),
        ("attention_mask_in_length", REQUIRED),
    ],
}

# flash_attn.layers.rotary.
ROTARY: list[tuple[str, object]] = [
    ("x", REQUIRED),
    ("cos", REQUIRED),
    ("sin", REQUIRED),
    ("interleaved", False),
    ("inplace", False),
    ("seqlen_offsets", 0),
    ("cu_seqlens", None),
    ("max_seqlen", None),
]

_QKV = [("q", REQUIRED), ("k", REQUIRED), ("v", REQUIRED)]
_DOUT = ("dout", REQUIRED)
_RESULTS = [
    ("out", REQUIRED),
    ("softmax_lse", REQUIRED),
    ("dq", REQUIRED),
    ("dk", REQUIRED),
    ("dv", REQUIRED),
]
_SCALE = [("dropout_p", REQUIRED), ("softmax_scale", REQUIRED), ("causal", REQUIRED)]
_BLOCK = [
    ("window_size_left", REQUIRED),
    ("window_size_right", REQUIRED),
    ("softcap", REQUIRED),
    ("alibi_slopes", REQUIRED),
]

# The entries below, as of 2.7.0 to 2.8.3.
ENTRIES: dict[str, list[tuple[str, object]]] = {
    "_flash_attn_forward": [*_QKV, *_SCALE, *_BLOCK, ("return_softmax", REQUIRED)],
    "_flash_attn_varlen_forward": [
        *_QKV,
        *_LENGTHS,
        *_SCALE,
        ("window_size_left", -1),
        ("window_size_right", -1),
        ("softcap", 0.0),
        ("alibi_slopes", None),
        ("return_softmax", False),
        ("block_table", None),
        ("leftpad_k", None),
        ("seqused_k", None),
        ("zero_tensors", False),
    ],
    "_flash_attn_backward": [
        _DOUT,
        *_QKV,
        *_RESULTS,
        *_SCALE,
        *_BLOCK,
        ("deterministic", REQUIRED),
        ("rng_state", None),
    ],
    "_flash_attn_varlen_backward": [
        _DOUT,
        *_QKV,
        *_RESULTS,
        *_LENGTHS,
        *_SCALE,
        *_BLOCK,
        ("deterministic", REQUIRED),
        ("rng_state", None),
        ("zero_tensors", False),
    ],
}
