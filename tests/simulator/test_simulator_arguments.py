"""What a kernel is given: shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from needs import skip_without_metalsim
from test_simulator import kernel

from orchard_ops import sim

skip_without_metalsim("simulator")
BOTH = pytest.mark.parametrize("strict", [False, True])
TEXT = """
#include <metal_stdlib>
using namespace metal;
kernel void distance(device const float* x [[buffer(0)]],
                     device float* y [[buffer(1)]],
                     device int* found [[buffer(2)]]) {
  found[0] = x == y;
  found[1] = int(y - x);
}
kernel void sums(device const float* x [[buffer(0)]],
                 device float* y [[buffer(1)]]) {
  for (uint i = 0; i < 8; ++i) y[i] += x[i];
}
"""


def compiled(entry, **defines):
    """Compile a kernel of the text above."""
    return sim.compile(TEXT, entry, defines)


def ones(n):
    """A fresh float32 array."""
    return np.ones(n, np.float32)


@BOTH
def test_one_array_at_two_slots(strict):
    """What is written through one slot is there at the other, and afterwards."""
    x = np.arange(64, dtype=np.float32)
    kernel("saxpy").dispatch([x, x, 2.0], 1, 64, strict=strict)
    np.testing.assert_array_equal(3 * np.arange(64), x)


@BOTH
def test_overlapping_views(strict):
    """Views of one array keep their distance, and share what they share."""
    base = ones(9)
    compiled("sums").dispatch([base[:8], base[1:]], 1, 1, strict=strict)
    np.testing.assert_array_equal(np.arange(1, 10), base)


@pytest.mark.parametrize("offset", [0, 3])
def test_pointers_of_shared_memory(offset):
    """A kernel that compares pointers sees which arrays are the same memory."""
    base, found = ones(8), np.zeros(2, np.int32)
    read_only = base[:6].view()
    read_only.flags.writeable = False
    compiled("distance").dispatch([read_only, base[offset:], found], 1, 1)
    assert found.tolist() == [offset == 0, offset]


@BOTH
def test_bounds_of_shared_memory(strict):
    """Memory between two views of one array is nobody's: it may not be read."""
    base = ones(4096)
    with pytest.raises(RuntimeError, match="out of bounds"):
        kernel("broken", "read_past_end").dispatch(
            [base[:64], base[4032:], np.uint32(64)], 1, 64, strict=strict
        )
