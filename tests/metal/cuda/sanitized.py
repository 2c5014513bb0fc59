"""What runs under compute-sanitizer: a few problems of moderate size, no reference.

Usage: sanitized.py [planted].  The planted faults are there to see that the checkers
see: "bounds" reads keys that do not exist; "race" expects kernels without barriers.
"""

from __future__ import annotations

import sys

import torch
from cuda_device import open_device

import orchard_ops

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# dtype, heads of q, of k and v, len_q, len_kv, head_dim.  From 128 on the backward,
# at 256 the forward too, exchange partial scores through threadgroup memory; at 576
# among nine slices.
SIZES = [
    (F16, 4, 2, 333, 333, 64),
    (F16, 2, 2, 200, 333, 128),
    (BF16, 2, 1, 130, 200, 256),
    (F32, 2, 1, 150, 150, 128),
    (F32, 1, 1, 131, 97, 33),
    (F32, 2, 1, 60, 90, 576),
]


def main() -> None:
    """Run forward and backward of each problem once."""
    device = open_device()
    planted = sys.argv[1] if len(sys.argv) > 1 else ""
    if planted == "bounds":
        read_past_the_end(device)
        return
    sizes = SIZES[1:3] if planted else SIZES
    for dtype, heads_q, heads_kv, len_q, len_kv, dim in sizes:
        q, k, v = (
            torch.randn(1, *shape, dim).to(device, dtype).requires_grad_()
            for shape in ((heads_q, len_q), (heads_kv, len_kv), (heads_kv, len_kv))
        )
        for options in ({"is_causal": True}, {"dropout_p": 0.1, "window": (50, 9)}):
            orchard_ops.flash_attention(q, k, v, **options).float().sum().backward()
        bias = torch.randn(1, heads_q, 1, len_kv).to(device, dtype).requires_grad_()
        orchard_ops.flash_attention(q, k, v, bias).float().sum().backward()
    torch.cuda.synchronize()
    print("ran", len(sizes), "problems")


def read_past_the_end(device: torch.device) -> None:
    """Tell the kernel of more keys than there are."""
    q = torch.randn(64, 1, 64).half().to(device)
    k = torch.randn(64, 1, 64).half().to(device)
    starts = torch.tensor([0, 64], dtype=torch.int32, device=device)
    ends = torch.tensor([0, 4096], dtype=torch.int32, device=device)
    orchard_ops.flash_attention_varlen(q, k, k, starts, ends, 64, 4096)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
