"""The public signatures of Dao's flash_attn, as of its versions 2.6.3 to 2.8.3.

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
}
