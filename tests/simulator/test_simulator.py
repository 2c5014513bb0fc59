"""The simulator alone: Metal kernels on NumPy arrays, and what it counts."""

from __future__ import annotations

import importlib
import os
import shlex
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from needs import skip_without_metalsim

import orchard_ops
from orchard_ops import _native, sim
from orchard_ops._child import python

skip_without_metalsim("simulator")
KERNELS = Path(__file__).parent / "kernels"
_native.load_sim()
OPTIONS = importlib.import_module("orchard_ops._sim").options()
"""The one set of options of this process."""


def kernel(file, entry=None, **defines):
    """Compile a kernel of ``tests/simulator/kernels``."""
    text = (KERNELS / f"{file}.metal").read_text(encoding="utf-8")
    return sim.compile(text, entry or file, {k: str(v) for k, v in defines.items()})


def as_bfloat(x):
    """Round float32 to bfloat16, to nearest even, as uint16 bits."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat(bits):
    """Widen bfloat16 bits to float32."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_saxpy():
    """A plain kernel computes what its text says, in place."""
    x = np.arange(256, dtype=np.float32)
    y = np.ones(256, np.float32)
    kernel("saxpy").dispatch([x, y, 2.5], 4, 64)
    np.testing.assert_array_equal(2.5 * x + 1, y)


@pytest.mark.parametrize("strict", [False, True])
def test_lane_layout(strict):
    """Each lane holds Apple's two elements of an 8x8 matrix."""
    held = np.zeros((32, 2), np.float32)
    matrix = np.arange(64, dtype=np.float32)
    kernel("layout").dispatch([matrix, held], 1, 32, strict=strict)
    lane = np.arange(32)
    row = 4 * (lane >> 4 & 1) + 2 * (lane >> 2 & 1) + (lane >> 1 & 1)
    column = 4 * (lane >> 3 & 1) + 2 * (lane & 1)
    np.testing.assert_array_equal(
        np.stack([8 * row + column, 8 * row + column + 1], 1), held
    )


TYPES = {"float": np.float32, "half": np.float16, "bfloat": np.uint16}


def random_matrix(name, seed):
    """A matrix as stored in MSL type ``name`` and as float64."""
    values = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    if name == "bfloat":
        bits = as_bfloat(values)
        return bits, from_bfloat(bits).astype(np.float64)
    stored = values.astype(TYPES[name])
    return stored, stored.astype(np.float64)


@pytest.mark.parametrize(
    "types",
    [
        "float float float float",
        "half half float float",
        "bfloat bfloat float float",
        "half half half half",
        "bfloat bfloat bfloat bfloat",
        "float half float float",
        "half bfloat float float",
    ],
)
def test_matrix_multiply(types):
    """A multiply-accumulate of any operand types matches NumPy."""
    names = types.split()
    a, b, c = (random_matrix(name, i) for i, name in enumerate(names[:3]))
    d = np.zeros((8, 8), TYPES[names[3]])
    compiled = kernel("multiply", **dict(zip(("TA", "TB", "TC", "TD"), names)))
    compiled.dispatch([a[0], b[0], c[0], d], 1, 32)
    got = from_bfloat(d) if names[3] == "bfloat" else d
    tolerance = {"float": 1e-6, "half": 2e-3, "bfloat": 1e-2}[names[3]]
    np.testing.assert_allclose(
        a[1] @ b[1] + c[1], got, rtol=tolerance, atol=2 * tolerance
    )


def test_transposed_load():
    """simdgroup_load with transpose reads columns as rows."""
    a, b = (random_matrix("float", i)[0] for i in range(2))
    c, d = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    floats = dict.fromkeys(("TA", "TB", "TC", "TD"), "float")
    kernel("multiply", TRANSPOSE="true", **floats).dispatch([a, b, c, d], 1, 32)
    np.testing.assert_allclose(a @ b.T, d, rtol=1e-5, atol=1e-6)


def test_foreign_layout():
    """A foreign lane layout changes what lanes hold, not what multiplies give."""
    matrix = np.arange(64, dtype=np.float32)
    plain, foreign = np.zeros((2, 32, 2), np.float32)
    kernel("layout").dispatch([matrix, plain], 1, 32)
    OPTIONS.has_foreign_layout = True
    try:
        kernel("layout").dispatch([matrix, foreign], 1, 32)
    finally:
        OPTIONS.has_foreign_layout = False
    assert not np.array_equal(plain, foreign)
    assert sorted(plain.ravel()) == sorted(foreign.ravel())


@pytest.mark.parametrize("order", [0, 1, 2])
def test_order_of_summation(order):
    """The order inside a multiply can be chosen; every order is a sum."""
    a, b = (random_matrix("float", i)[0] for i in range(2))
    c, d = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    floats = dict.fromkeys(("TA", "TB", "TC", "TD"), "float")
    OPTIONS.matrix_order = order
    try:
        kernel("multiply", **floats).dispatch([a, b, c, d], 1, 32)
    finally:
        OPTIONS.matrix_order = 0
    np.testing.assert_allclose(a @ b, d, rtol=1e-5, atol=1e-6)


def test_simdgroup_functions():
    """Shuffles, votes and reductions follow their definitions."""
    x = np.arange(32, dtype=np.float32)
    out = np.zeros((14, 32), np.float32)
    kernel("simdgroup", "simdgroup_functions").dispatch([x, out], 1, 32)
    lane = np.arange(32)
    want = [
        x[::-1],
        x[lane ^ 5],
        x[np.where(lane >= 3, lane - 3, lane)],
        x[np.where(lane < 29, lane + 3, lane)],
        np.full(32, 7),
        np.full(32, x.sum()),
        np.full(32, 31),
        np.zeros(32),
        np.cumsum(x),
        np.cumsum(x) - x,
        np.full(32, np.float32(0xFFFE0000)),
        np.ones(32),
        x.reshape(8, 4).sum(1).repeat(4),
        np.where(lane < 29, x[(lane + 3) % 32], x[(lane + 3) % 32] - 100),
    ]
    np.testing.assert_array_equal(np.stack(want), out)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lanes_that_returned_take_no_part(seed, strict):
    """Simdgroup functions act on the active lanes, the last simdgroup's 16 too."""
    threads = 80
    x = np.random.default_rng(seed).integers(1, 99, threads).astype(np.float32)
    out = np.zeros((threads, 11), np.float32)
    active = kernel("simdgroup", "active_lanes")
    active.dispatch([x, out], 1, threads, seed=seed, strict=strict)
    want = np.zeros_like(out)
    for begin in range(0, threads, 32):
        lanes = [t for t in range(begin, min(begin + 32, threads)) if t % 3 > 0]
        v = x[lanes]
        want[lanes, :3] = v.sum(), v.max(), v.min()
        want[lanes, 3], want[lanes, 4] = np.cumsum(v), np.cumsum(v) - v
        want[lanes, 5] = v[0]
        want[lanes[0], 6] = 1
        want[lanes, 7] = len(lanes)
        want[lanes, 8] = 1
        left = [t for t in lanes if t % 3 == 2]
        for t in left:
            want[t, 9] = sum(x[other] for other in left if other // 4 == t // 4)
        want[left, 10] = x[left].sum()
    np.testing.assert_array_equal(want, out)


@pytest.mark.parametrize("what", ["MULTIPLY", "SIMDGROUP_BARRIER", "BARRIER"])
@pytest.mark.parametrize("strict", [False, True])
def test_what_every_lane_must_reach(what, strict):
    """Matrices and barriers need the lanes that have returned: said, not guessed."""
    missing = kernel("simdgroup", "after_a_return", **{what: 1})
    with pytest.raises(orchard_ops.DeviceError, match="return"):
        missing.dispatch([np.ones(64, np.float32)], 1, 32, strict=strict)


def edge_values():
    """Values that are hard to round: ties, subnormals, limits, random."""
    rng = np.random.default_rng(7)
    special = [0.0, -0.0, 1.0, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]
    special += [65504.0, 65519.9, 65520.0, 6e-8, 5.96e-8, 3e-8, 1e-7, 3.3e38, -2.5e-5]
    wide = rng.standard_normal(1000) * 10.0 ** rng.uniform(-6, 4, 1000)
    return np.concatenate([special, wide]).astype(np.float32)


@pytest.mark.parametrize("name", ["half", "bfloat"])
def test_rounding(name):
    """Half and bfloat round to nearest even at every conversion and operation."""
    x = edge_values()
    y = x[::-1].copy()
    out = np.zeros((4, x.size), np.float32)
    compiled = kernel("rounding", T=name)
    compiled.dispatch([x, y, out, np.uint32(x.size)], x.size, 1)

    def rounded(value):
        with np.errstate(over="ignore", invalid="ignore"):
            if name == "half":
                return value.astype(np.float16).astype(np.float32)
            return from_bfloat(as_bfloat(value))

    with np.errstate(over="ignore", invalid="ignore"):
        a, b = rounded(x), rounded(y)
        product = rounded(a * b)
        want = np.stack([a, product, rounded(a + b), rounded(product + a)])
    np.testing.assert_array_equal(want[~np.isnan(want)], out[~np.isnan(want)])


def test_templates():
    """Explicit instantiations are found under their host_name."""
    x = np.arange(32, dtype=np.float16)
    kernel("scale", "scale_half_3").dispatch([x], 1, 32)
    np.testing.assert_array_equal(np.arange(32) * 3, x)
    y = np.arange(32, dtype=np.float32)
    kernel("scale", "scale_float_5").dispatch([y], 1, 32)
    np.testing.assert_array_equal(np.arange(32) * 5, y)


@pytest.mark.parametrize(("entry", "number"), [("moved_in", 4), ("moved_out", 8)])
def test_templates_attributes_hold(entry, number):
    """Slots, inputs and limits of an instance are those of its template."""
    compiled = kernel("scale", entry)
    assert compiled.info["max_threads"] == 8 * number
    x, y = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    slots = [None] * (3 + number)
    slots[2], slots[2 + number] = y, x
    compiled.dispatch(slots, 2, 8)
    np.testing.assert_array_equal(x[::-1], y)


@pytest.mark.parametrize("strict", [False, True])
def test_vectors(strict):
    """Vector constructors, swizzles and functions follow MSL."""
    x = np.array([[1, 2, 3, 4], [-1, 5, 0.25, 8]], np.float32)
    out = np.zeros((10, 4), np.float32)
    pairs = np.arange(8, dtype=np.float32)
    kernel("vectors").dispatch([x, out, pairs], 1, 1, strict=strict)
    a, b = x
    mixed = np.array([1, -1, 5, 4], np.float32)
    want = [
        a[::-1],
        [2, 4, 0.25, 8],
        np.where(a < b, b, a),
        mixed,
        [np.float32(np.pi), 0, 0, 2],
        [1, 2, 3, mixed @ b],
        [4, 5, 6, 7],
        [1.5, 2, 3.25, 3.25],
        np.clip(b, -0.5, 0.5) + mixed * b + 1,
        [7, 8, 31, 2],
    ]
    np.testing.assert_array_equal(np.array(want, np.float32), out)


def test_same_bits_for_all_seeds():
    """The schedule does not show in the results of a correct kernel."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((8, 8)).astype(np.float32)
    compiled = kernel("chain")
    results = []
    for seed in range(10):
        out = np.zeros((3, 4, 2, 64), np.float32)
        compiled.dispatch([a, out], 3, 128, seed=seed)
        results.append(out.tobytes())
    assert len(set(results)) == 1


def test_eager_multiplies_change_nothing():
    """Multiplies without lane switches give the bits of those with them."""
    a = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    eager, patient, strict = np.zeros((3, 3, 4, 2, 64), np.float32)
    compiled = kernel("chain")
    compiled.dispatch([a, eager], 3, 128)
    compiled.dispatch([a, strict], 3, 128, strict=True)
    OPTIONS.is_eager = False
    try:
        compiled.dispatch([a, patient], 3, 128)
    finally:
        OPTIONS.is_eager = True
    assert eager.tobytes() == patient.tobytes() == strict.tobytes()


def test_counters():
    """A known kernel is counted exactly, loads and stores included."""
    x = np.ones((64, 4), np.float32)
    y = np.zeros(64, np.float32)
    counted = kernel("counted").dispatch([x, y, 0.0], 1, 64, strict=True)
    want = {
        "launches": 1,
        "threadgroups": 1,
        "threads": 64,
        "matrix_multiplies": 4,
        "shuffles": 2,
        "reductions": 2,
        "votes": 2,
        "threadgroup_barriers": 1,
        "simdgroup_barriers": 2,
        "exponentials": 64,
        "device_loads": 64,
        "device_load_bytes": 1024,
        "device_stores": 64,
        "device_store_bytes": 256,
        "constant_loads": 64,
        "constant_load_bytes": 256,
        "threadgroup_loads": 64,
        "threadgroup_load_bytes": 256,
        "threadgroup_stores": 64,
        "threadgroup_store_bytes": 256,
        "uninitialized_reads": 0,
    }
    assert want == {name: counted[name] for name in want}


@pytest.mark.parametrize(
    ("element", "stride", "from_lane", "extra"),
    [
        ("float", 1, "lane", 0),
        ("float", 2, "lane", 1),
        ("float", 32, "lane", 31),
        ("float", 33, "lane", 0),
        ("float", 32, "0", 31),  # by the store alone: one word serves every lane
        ("half", 1, "lane", 0),
        ("half", 4, "lane", 1),
        ("float2", 1, "lane", 0),
        ("float2", 2, "lane", 2),  # one in each half of the simdgroup
        ("float4", 1, "lane", 0),
        ("float4", 4, "lane", 12),
    ],
)
def test_bank_conflicts(element, stride, from_lane, extra):
    """Passes that a simdgroup's access needs beyond those for its bytes are counted."""
    parts = {"float2": "x.x + x.y", "float4": "x.x + x.y + x.z + x.w"}
    banks = kernel(
        "banks",
        ELEM=element,
        STRIDE=stride,
        FROM=f"{from_lane} * {stride}",
        RESULT=parts.get(element, "x"),
    )
    y = np.zeros(64, np.float32)
    counted = banks.dispatch([y], 1, 64, strict=True)
    accesses = 2 if from_lane == "lane" else 1
    assert counted["bank_conflicts"] == 2 * accesses * extra
    assert counted["threadgroup_stores"] == counted["threadgroup_loads"] == 64
    assert banks.dispatch([y], 1, 64, strict=False)["bank_conflicts"] == 0


def test_environments_share_compiled_kernels(tmp_path, monkeypatch):
    """Where the compiler lies does not matter to the cache, only which one it is."""
    program, *words = sim.compiler()
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORCHARD_CACHE_DIR", str(cache))
    for environment in ("one", "other"):
        link = tmp_path / environment / Path(program).name
        link.parent.mkdir()
        link.symlink_to(program)
        monkeypatch.setenv("ORCHARD_SIM_CXX", shlex.join([str(link), *words]))
        kernel("saxpy", SHARED=os.getpid())
    assert len(list(cache.glob("*.so"))) == 1


@pytest.mark.parametrize("directive", ["#include", "# include", "%:include"])
def test_included_files_count(tmp_path, directive):
    """A file that a text includes is read when the text is compiled, once."""
    header = tmp_path / "value.h"
    text = f"""{directive} <{header}>
    kernel void f(device float* y [[buffer(0)]]) {{ y[0] = VALUE; }}
    """
    found = []
    for value in (1, 2):
        header.write_text(f"#define VALUE {value}\n", encoding="utf-8")
        compiled = sim.compile(text, "f", {"DIRECTIVE": str(os.getpid())})
        header.write_text("#define VALUE 3\n", encoding="utf-8")
        for strict in (False, True):
            y = np.zeros(1, np.float32)
            compiled.dispatch([y], 1, 1, strict=strict)
            found.append(y[0])
    assert found == [1, 1, 2, 2]


def test_compilers_flags_count(monkeypatch):
    """The flags of the command that compiles kernels tell its results apart."""
    text = "kernel void f(device float* y [[buffer(0)]]) { y[0] = VALUE; }"
    program, *words = sim.compiler()
    if words == ["c++"]:
        words = ["clang"]  # which zig leaves as it is
    for value in (1, 2):
        flags = [*words, f"-DVALUE={value}"]
        monkeypatch.setenv("ORCHARD_SIM_CXX", shlex.join([program, *flags]))
        y = np.zeros(1, np.float32)
        sim.compile(text, "f", {"FLAGS": str(os.getpid())}).dispatch([y], 1, 1)
        assert y[0] == value


CALL = """
import torch, orchard_ops
from orchard_ops import sim
sim.enable()
q = torch.ones(1, 1, 8, 8, device="metalsim")
assert orchard_ops.flash_attention(q, q, q).cpu().eq(1).all()
"""


def test_cached_kernels_need_no_compiler(tmp_path):
    """The package's own kernels are found in the cache without running a compiler."""
    program, *words = sim.compiler()
    command = shlex.join([program, *(["clang"] if words == ["c++"] else words)])
    log, wrapper = tmp_path / "log", tmp_path / "clang"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {command} "$@"\n')
    wrapper.chmod(0o700)
    environment = {**os.environ, "ORCHARD_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        log.write_text("")
        subprocess.run(
            python(CALL),
            env={**environment, "ORCHARD_SIM_CXX": str(wrapper)},
            check=True,
        )
    assert log.read_text() == "--version\n"


def test_cache_is_private(tmp_path, monkeypatch):
    """Compiled kernels land in a folder that only the user can read."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ORCHARD_CACHE_DIR", str(folder))
    kernel("saxpy", UNIQUE=os.getpid())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.glob("*.so"))) == 1
    assert not list(folder.glob("build-*"))


def test_kernel_info():
    """A kernel tells its parameters' names, indices and spaces."""
    parameters = kernel("saxpy").info["parameters"]
    assert [(p["name"], p["index"], p["space"]) for p in parameters[:3]] == [
        ("x", 0, "device"),
        ("y", 1, "device"),
        ("a", 2, "constant"),
    ]
