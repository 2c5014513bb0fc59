"""What a kernel is given: shared memory, types and sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from needs import skip_without_metalsim
from test_simulator import as_bfloat, kernel

import orchard_ops
from orchard_ops import sim

skip_without_metalsim("simulator")
BOTH = pytest.mark.parametrize("strict", [False, True])
TEXT = """
#include <metal_stdlib>
using namespace metal;
struct Pair { float a; int b; };
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
kernel void same(device T* y [[buffer(0)]], constant T& x [[buffer(1)]]) {
  y[0] = x;
}
kernel void pairs(device const float4* x [[buffer(0)]],
                  constant Pair& pair [[buffer(1)]],
                  device float* y [[buffer(2)]]) {
  y[0] = pair.a + float(pair.b) + x[0].x;
}
"""


def compiled(entry, **defines):
    """Compile a kernel of the text above."""
    return sim.compile(TEXT, entry, {"T": "float", **defines})


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
    with pytest.raises(orchard_ops.DeviceError, match="out of bounds"):
        kernel("broken", "read_past_end").dispatch(
            [base[:64], base[4032:], np.uint32(64)], 1, 64, strict=strict
        )


@pytest.mark.parametrize(
    ("type_", "dtype"),
    [
        ("bool", np.bool_),
        ("char", np.int8),
        ("ushort", np.uint16),
        ("uint", np.int32),
        ("long", np.int64),
        ("half", np.float16),
        ("bfloat", np.uint16),
        ("float", np.float32),
        ("float", np.uint8),
        ("float3", np.float32),
        ("packed_short2", np.int16),
    ],
)
def test_types_that_fit(type_, dtype):
    """An array or a NumPy scalar of a parameter's type arrives as it is."""
    x = np.arange(1, 17).astype(dtype)
    y = np.zeros_like(x)
    compiled("same", T=type_).dispatch([y, x], 1, 1)
    assert y[0] == x[0]


@pytest.mark.parametrize(
    ("type_", "value", "bits"),
    [
        ("float", 2.5, np.float32(2.5)),
        ("float", np.float64(0.1), np.float32(0.1)),
        ("half", 0.1, np.float16(0.1)),
        ("bfloat", 0.1, as_bfloat([0.1])[0]),
        ("bool", True, np.bool_(True)),
        ("char", -128, np.int8(-128)),
        ("uint", 2**32 - 1, np.uint32(2**32 - 1)),
        ("long", -5, np.int64(-5)),
        ("ulong", 2**64 - 1, np.uint64(2**64 - 1)),
        ("int", False, np.int32(0)),
    ],
)
def test_numbers_take_the_parameters_type(type_, value, bits):
    """A Python number is encoded as the parameter's type, whatever its width."""
    y = np.full(1, 77, bits.dtype)
    compiled("same", T=type_).dispatch([y, value], 1, 1)
    assert y[0] == bits


@pytest.mark.parametrize(
    ("type_", "value", "match"),
    [
        ("float", 2, "expected a float, got the int 2"),
        ("float", True, "expected a float, got the bool True"),
        ("int", 2.0, "expected an int, got the float 2.0"),
        ("bool", 1, "expected a bool, got the int 1"),
        ("int", 2**31, "from -2147483648 to 2147483647, got 2147483648"),
        ("uchar", -1, "from 0 to 255, got -1"),
        ("float2", 1.0, "expected 8 bytes, got the float 1.0"),
        ("float", np.float16(1), "elements of float32, got float16"),
        ("float", np.zeros(4), "elements of float32, got float64"),
        ("float", np.zeros(4, np.int32), "elements of float32, got int32"),
        ("int", np.zeros(4, np.float32), "elements of int32, got float32"),
        ("uint", np.zeros(4, np.uint64), "elements of uint32, got uint64"),
        ("half", np.zeros(4, np.uint16), "elements of float16, got uint16"),
        ("bfloat", np.zeros(4, np.float16), "elements of bfloat16"),
        ("bool", np.zeros(4, np.int8), "elements of bool, got int8"),
        ("float", np.zeros(4, ">f4"), "byte order, got >f4"),
        ("float", np.zeros(4, object), "numbers .*, got object"),
        ("float", [1.0], "a NumPy array, a number, bytes or None, got list"),
        ("float", np.zeros((4, 4), np.float32)[:, 0], "C-contiguous"),
    ],
)
def test_types_that_do_not_fit(type_, value, match):
    """Another type is refused, with the argument, what it takes and what came."""
    bits = np.zeros(16, np.uint8)
    with pytest.raises(orchard_ops.InvalidProblemError, match=match) as caught:
        compiled("same", T=type_).dispatch([bits, value], 1, 1)
    assert f"[same] argument 1, 'x' (constant {type_}&)" in str(caught.value)


@pytest.mark.parametrize(
    ("x", "pair", "match"),
    [
        (ones(3), bytes(8), "parameter x: expected at least the 16 bytes"),
        (ones(4), bytes(7), "parameter pair: expected at least the 8 bytes"),
        (ones(4), np.uint8(1), "parameter pair: expected at least the 8 bytes"),
        (ones(4), np.zeros(0, np.uint8), "parameter pair: "),
    ],
)
def test_part_of_an_element(x, pair, match):
    """An argument holds at least one element; a reference is never empty."""
    with pytest.raises(orchard_ops.DeviceError, match=match):
        compiled("pairs").dispatch([x, pair, ones(1)], 1, 1)


def test_structs():
    """A struct comes as bytes, as a record of its size or as an array."""
    record = np.array([(1.5, 2)], [("a", "f4"), ("b", "i4")])
    for pair in (record, record[0], record.tobytes(), memoryview(record.tobytes())):
        y = np.zeros(1, np.float32)
        compiled("pairs").dispatch([ones(4), pair, y], 1, 1)
        assert y[0] == 4.5
    wide = np.zeros(1, [("a", "f8"), ("b", "i4")])
    with pytest.raises(orchard_ops.InvalidProblemError, match="elements of 8 bytes"):
        compiled("pairs").dispatch([ones(4), wide, ones(1)], 1, 1)


def test_an_output_must_be_writable():
    """Results that would be lost are refused; inputs may be read-only."""
    x, y = ones(4), ones(4)
    x.flags.writeable = False
    kernel("saxpy").dispatch([x, y, 1.0], 1, 4)
    assert y[0] == 2
    for lost in (x, x.tobytes(), np.float32(1)):
        with pytest.raises(orchard_ops.InvalidProblemError, match="writable array"):
            kernel("saxpy").dispatch([y, lost, 1.0], 1, 4)
